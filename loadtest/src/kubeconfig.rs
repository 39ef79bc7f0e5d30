//! Any kubeconfig: certificates in it or beside it, or a token.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use serde_json::Value;

/// What the current context says.
#[derive(Clone)]
pub(crate) struct Kubeconfig {
    /// `https://host:port`.
    pub(crate) server: http::Uri,
    /// PEM; `None`: the server is believed.
    pub(crate) ca: Option<Vec<u8>>,
    /// Certificate and key, PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// A bearer token.
    pub(crate) token: Option<String>,
}

impl Kubeconfig {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{}: start a cluster, or name its kubeconfig", path.display()))?;
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        Self::parse(&text, directory).with_context(|| path.display().to_string())
    }

    fn parse(text: &str, directory: PathBuf) -> anyhow::Result<Self> {
        let file: Value = serde_yaml_ng::from_str(text)?;
        let current = file["current-context"].as_str().unwrap_or_default();
        let context = named(&file, "contexts", "context", current)?;
        let cluster = named(&file, "clusters", "cluster", text_of(context, "cluster"))?;
        let user = named(&file, "users", "user", text_of(context, "user"))?;
        let material = |from: &Value, field: &str| -> anyhow::Result<Option<Vec<u8>>> {
            if let Some(data) = from[format!("{field}-data")].as_str() {
                let engine = base64::engine::general_purpose::STANDARD;
                return Ok(Some(engine.decode(data.trim()).with_context(|| format!("{field}-data"))?));
            }
            let Some(file) = from[field].as_str() else { return Ok(None) };
            let file = directory.join(file);
            Ok(Some(std::fs::read(&file).with_context(|| file.display().to_string())?))
        };
        let token = match user["tokenFile"].as_str() {
            Some(file) => Some(std::fs::read_to_string(directory.join(file))?.trim().to_owned()),
            None => user["token"].as_str().map(str::to_owned),
        };
        let trusting = cluster["insecure-skip-tls-verify"].as_bool() == Some(true);
        Ok(Self {
            server: text_of(cluster, "server").parse().context("the cluster's server")?,
            ca: if trusting { None } else { material(cluster, "certificate-authority")? },
            identity: material(user, "client-certificate")?.zip(material(user, "client-key")?),
            token,
        })
    }

    /// The same for another server of the cluster, `https://host:port`.
    pub(crate) fn at(&self, server: &str) -> anyhow::Result<Self> {
        Ok(Self { server: server.parse()?, ..self.clone() })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.host(), self.server.port_u16().unwrap_or(443))
    }

    /// The server's name.
    pub(crate) fn host(&self) -> &str {
        self.server.host().unwrap_or_default()
    }
}

fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn named<'a>(file: &'a Value, list: &str, what: &str, name: &str) -> anyhow::Result<&'a Value> {
    let entries = file[list].as_array().into_iter().flatten();
    let found = entries.into_iter().find(|entry| entry["name"].as_str() == Some(name));
    found.map(|entry| &entry[what]).ok_or_else(|| anyhow!("it has no {what} \"{name}\""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn certificates_stand_in_it_or_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), "CA").unwrap();
        let text = "
current-context: b
contexts: [{name: a, context: {cluster: x, user: x}}, {name: b, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: 'https://h:8443', certificate-authority: ca.crt}}]
users: [{name: u, user: {client-certificate-data: QQ==, client-key-data: Qg==, token: t}}]";
        let config = Kubeconfig::parse(text, directory.path().to_owned()).unwrap();
        assert_eq!((config.address().as_str(), config.host()), ("h:8443", "h"));
        assert_eq!(config.ca.as_deref(), Some(&b"CA"[..]));
        assert_eq!(config.identity, Some((b"A".to_vec(), b"B".to_vec())));
        assert_eq!(config.token.as_deref(), Some("t"));
        assert!(Kubeconfig::parse(&text.replace("context: b", "context: d"), PathBuf::new()).is_err());
    }
}
