//! Configuration in layers: flags, then the environment (`BALSA_…`), then a YAML file, then defaults.
//!
//! Every option is declared once, as a flag; the file's keys are the flags' names. clap puts flags
//! before the environment, [`layered`] fills in what neither says from the file, and each part's
//! `resolve` sets the defaults.

mod agent;
mod server;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use balsa_rt::telemetry::{LogFormat, install_logs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use agent::{AgentFlags, AgentSettings, METRICS_PORT};
pub(crate) use server::{ServerFlags, ServerSettings};
pub(crate) use values::{Cidr, PortRange};

/// Where configuration comes from, beside flags and environment.
#[derive(clap::Args)]
pub(crate) struct ConfigFile {
    /// YAML file with options, named like the flags
    #[arg(long, value_name = "FILE", env = "BALSA_CONFIG")]
    config: Option<PathBuf>,
    /// Print the configuration that results, and end
    #[arg(long)]
    pub(crate) print_config: bool,
}

/// What is told of the work.
#[derive(clap::Args, Serialize, Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct LogFlags {
    /// What to log: error, warn, info, debug, or by part, like balsa_agent=debug,info
    #[arg(long, value_name = "FILTER", env = "BALSA_LOG")]
    log: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT", env = "BALSA_LOG_FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
}

impl LogFlags {
    /// The flags that start another program that logs like this one.
    pub(crate) fn flags(&self) -> impl Iterator<Item = String> {
        let filter = self.log.iter().map(|filter| format!("--log={filter}"));
        filter.chain(self.log_format.iter().map(|format| format!("--log-format={format}")))
    }

    /// Sends logs to standard error; `usual` is the filter when none is given.
    pub(crate) fn install(&self, usual: &str) {
        let format =
            if self.log_format.as_deref() == Some("json") { LogFormat::Json } else { LogFormat::Text };
        // The resolver's library tells every query of every pod.
        let usual = format!("{usual},hickory_server=warn");
        install_logs(self.log.as_deref().unwrap_or(&usual), format);
    }
}

impl ConfigFile {
    /// What flags and environment leave open, from the file.
    pub(crate) fn fill<T>(&self, given: &T) -> anyhow::Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        let Some(path) = &self.config else { return layered(given, Map::new()) };
        let context = || format!("configuration {}", path.display());
        let text = std::fs::read_to_string(path).with_context(context)?;
        layered(given, read(&text).with_context(context)?).with_context(context)
    }
}

/// The options of a file; those that no part knows are mistakes.
fn read(text: &str) -> anyhow::Result<Map<String, Value>> {
    let file = match serde_yaml_ng::from_str(text)? {
        Value::Null => Map::new(),
        Value::Object(file) => file,
        _ => bail!("must be options and their values, like `port: 6443`"),
    };
    let mut known = Map::new();
    for part in [
        serde_json::to_value(ServerFlags::default())?,
        serde_json::to_value(AgentFlags::default())?,
        serde_json::to_value(LogFlags::default())?,
        serde_json::json!({"nodes": null, "servers": null}),
    ] {
        known.extend(part.as_object().cloned().unwrap_or_default());
    }
    match file.keys().find(|key| !known.contains_key(*key)) {
        Some(unknown) => {
            bail!("there is no option \"{unknown}\"; options are named like the flags, without --")
        }
        None => Ok(file),
    }
}

/// `given` over `file`. A file may hold options of other parts too: several may share it.
fn layered<T>(given: &T, mut file: Map<String, Value>) -> anyhow::Result<T>
where
    T: Serialize + DeserializeOwned,
{
    if let Value::Object(given) = serde_json::to_value(given)? {
        file.extend(given.into_iter().filter(|(_, value)| !value.is_null()));
    }
    serde_json::from_value(Value::Object(file.clone())).map_err(|error| {
        // Which of them it is: each by itself.
        let alone = |name: &String, value: &Value| serde_json::json!({name.as_str(): value});
        let wrong = file
            .iter()
            .find_map(|(name, value)| Some((name, serde_json::from_value::<T>(alone(name, value)).err()?)));
        wrong.map_or_else(|| error.into(), |(name, error)| anyhow::anyhow!("{name}: {error}"))
    })
}

/// The configuration as a file would hold it.
pub(crate) fn print<T: Serialize>(settings: &T) -> anyhow::Result<()> {
    crate::output::print(&serde_yaml_ng::to_string(settings)?)
}

/// An absolute path, so that what is written down stays right elsewhere.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Servers as host:port; they may also be given as `balsa member list -o json` and kubeconfigs have them.
fn addresses(servers: Vec<String>) -> Vec<String> {
    let bare = |server: String| server.trim_start_matches("https://").trim_end_matches('/').to_owned();
    servers.into_iter().map(bare).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_may_be_a_url() {
        let given = ["https://127.0.0.1:6443".to_owned(), "h:1".to_owned(), "https://h:2/".to_owned()];
        assert_eq!(addresses(given.into()), ["127.0.0.1:6443", "h:1", "h:2"]);
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = read("port: 7000\nservice-cidr: 10.0.0.0/16\nnodes: 3\nname: other\n").unwrap();
        let given = ServerFlags { port: Some(8000), ..ServerFlags::default() };
        let settings = layered(&given, file).unwrap().resolve();
        assert_eq!((settings.port, settings.service_cidr.to_string().as_str()), (8000, "10.0.0.0/16"));
        assert_eq!(settings.cluster_cidr.to_string(), "10.244.0.0/16");
    }

    #[test]
    fn mistakes_are_told() {
        assert!(read("prot: 1").unwrap_err().to_string().contains("\"prot\""));
        assert!(read("- port").is_err());
        let file = read("service-cidr: 10.0.0.0/99").unwrap();
        assert!(layered(&ServerFlags::default(), file).err().unwrap().to_string().contains("10.0.0.0/99"));
        let file = read("name: a\nport: many").unwrap();
        let told = layered(&ServerFlags::default(), file).err().unwrap().to_string();
        assert!(told.starts_with("port: "), "{told}");
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let settings = ServerFlags::default().resolve();
        let text = serde_yaml_ng::to_string(&settings).unwrap();
        let again: ServerFlags = layered(&ServerFlags::default(), read(&text).unwrap()).unwrap();
        assert_eq!(serde_yaml_ng::to_string(&again.resolve()).unwrap(), text);

        let given = read("server: [h:1]\nname: n\nlabels: a=b,c=\n").unwrap();
        let settings = layered(&AgentFlags::default(), given).unwrap().resolve().unwrap();
        let text = serde_yaml_ng::to_string(&settings).unwrap();
        let again: AgentFlags = layered(&AgentFlags::default(), read(&text).unwrap()).unwrap();
        let again = again.resolve().unwrap();
        assert_eq!((serde_yaml_ng::to_string(&again).unwrap(), again.labels.len()), (text, 2));
    }
}
