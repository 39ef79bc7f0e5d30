//! Kubeconfig files: the one that `balsa up` writes, and what the command line reads.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use balsa_client::remote::{Identity, RemoteConfig};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// What a kubeconfig says about one context.
pub(crate) struct Kubeconfig {
    /// The cluster and whom we are in it.
    pub(crate) remote: RemoteConfig,
    /// The context's namespace.
    pub(crate) namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    current_context: String,
    clusters: Vec<Named<Cluster>>,
    contexts: Vec<Named<Context>>,
    users: Vec<Named<User>>,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "context", alias = "user")]
    value: T,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    extensions: Vec<Extension>,
}

/// What others may add to a cluster's entry; kubectl keeps it and does not look at it.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Extension {
    name: String,
    extension: serde_json::Value,
}

/// The extension with all servers of a cluster: an entry itself has room for one.
const SERVERS: &str = "balsa.dev/servers";

impl Cluster {
    /// The servers, the one that kubectl asks first.
    fn servers(&self) -> anyhow::Result<Vec<String>> {
        let mut servers = vec![address(&self.server)?];
        let ours = self.extensions.iter().find(|extension| extension.name == SERVERS);
        let listed = ours.and_then(|ours| ours.extension.get("servers")?.as_array());
        for server in listed.into_iter().flatten().filter_map(serde_json::Value::as_str) {
            if !servers.iter().any(|known| known == server) {
                servers.push(server.to_owned());
            }
        }
        Ok(servers)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
}

impl Kubeconfig {
    /// Reads one context (else the current one). Files are named relative to `directory`.
    pub(crate) fn parse(text: &str, directory: Option<&Path>, context: Option<&str>) -> anyhow::Result<Self> {
        let file: File = serde_yaml_ng::from_str(text)?;
        let name = context.unwrap_or(&file.current_context);
        if name.is_empty() {
            bail!("it has no current context; name one with --context");
        }
        let context = find(&file.contexts, name, "context")?;
        let cluster = find(&file.clusters, &context.cluster, "cluster")?;
        let user = find(&file.users, &context.user, "user")?;
        let directory = directory.unwrap_or(Path::new("."));
        let ca = material(directory, &cluster.certificate_authority_data, &cluster.certificate_authority)?
            .ok_or_else(|| anyhow!("cluster \"{}\" names no certificate authority", context.cluster))?;
        Ok(Self {
            remote: RemoteConfig {
                servers: cluster.servers()?,
                ca_pem: ca,
                identity: user.identity(directory, &context.user)?,
            },
            namespace: context.namespace.clone().filter(|n| !n.is_empty()).unwrap_or("default".to_owned()),
        })
    }

    /// A kubeconfig for one user with a certificate.
    pub(crate) fn render(server: &str, ca: &str, user: &str, certificate: &str, key: &str) -> String {
        let server = server.strip_prefix("https://").unwrap_or(server);
        Self::render_all(&[("balsa".to_owned(), server.to_owned())], ca, user, certificate, key)
    }

    /// A kubeconfig with a context for each server (name, host:port) of one cluster; the first one is
    /// current. Our own command line goes on with the others when that one does not answer.
    pub(crate) fn render_all(
        servers: &[(String, String)],
        ca: &str,
        user: &str,
        certificate: &str,
        key: &str,
    ) -> String {
        let [ca, certificate, key] = [ca, certificate, key].map(|pem| STANDARD.encode(pem));
        let addresses: Vec<String> = servers.iter().map(|(_, address)| format!("\"{address}\"")).collect();
        let extensions = match servers.len() {
            0 | 1 => String::new(),
            _ => format!(
                "    extensions:\n    - name: {SERVERS}\n      extension:\n        servers: [{}]\n",
                addresses.join(", ")
            ),
        };
        let (mut clusters, mut contexts) = (String::new(), String::new());
        for (name, address) in servers {
            clusters.push_str(&format!(
                "- name: {name}\n  cluster:\n    server: https://{address}\n    certificate-authority-data: {ca}\n{extensions}"
            ));
            contexts
                .push_str(&format!("- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n"));
        }
        let current = servers.first().map_or("", |(name, _)| name.as_str());
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n{clusters}contexts:\n{contexts}\
             current-context: {current}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\n"
        )
    }
}

impl User {
    fn identity(&self, directory: &Path, name: &str) -> anyhow::Result<Identity> {
        if let Some(token) = &self.token {
            return Ok(Identity::Token(token.clone()));
        }
        if let Some(path) = &self.token_file {
            return Ok(Identity::Token(read(directory, path)?.trim().to_owned()));
        }
        let certificate = material(directory, &self.client_certificate_data, &self.client_certificate)?;
        let key = material(directory, &self.client_key_data, &self.client_key)?;
        match (certificate, key) {
            (Some(cert_pem), Some(key_pem)) => Ok(Identity::Certificate { cert_pem, key_pem }),
            _ => bail!("user \"{name}\" has neither a token nor a certificate with its key"),
        }
    }
}

fn find<'a, T>(list: &'a [Named<T>], name: &str, what: &str) -> anyhow::Result<&'a T> {
    list.iter()
        .find(|entry| entry.name == name)
        .map(|entry| &entry.value)
        .ok_or_else(|| anyhow!("it has no {what} \"{name}\""))
}

fn read(directory: &Path, path: &str) -> anyhow::Result<String> {
    let path = directory.join(path);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// PEM text out of the file itself, or out of another.
fn material(
    directory: &Path,
    data: &Option<String>,
    path: &Option<String>,
) -> anyhow::Result<Option<String>> {
    match (data, path) {
        (Some(data), _) => {
            let bytes = STANDARD.decode(data.trim()).context("certificate or key data is not base64")?;
            Ok(Some(String::from_utf8(bytes).context("certificate or key data is not PEM")?))
        }
        (None, Some(path)) => read(directory, path).map(Some),
        (None, None) => Ok(None),
    }
}

/// `host:port` of a URL.
fn address(url: &str) -> anyhow::Result<String> {
    let rest =
        url.strip_prefix("https://").ok_or_else(|| anyhow!("server \"{url}\": must start with https://"))?;
    let host = rest.split('/').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { host.to_owned() } else { format!("{host}:443") })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let text = Kubeconfig::render("https://127.0.0.1:6443", "CA", "kubernetes-admin", "CERT", "KEY");
        let read = Kubeconfig::parse(&text, None, None).unwrap();
        assert_eq!(read.remote.servers, ["127.0.0.1:6443"]);
        assert_eq!((read.remote.ca_pem.as_str(), read.namespace.as_str()), ("CA", "default"));
        let Identity::Certificate { cert_pem, key_pem } = read.remote.identity else {
            panic!("no certificate")
        };
        assert_eq!((cert_pem.as_str(), key_pem.as_str()), ("CERT", "KEY"));
    }

    #[test]
    fn all_servers_of_a_cluster_are_known() {
        let servers =
            [("balsa".to_owned(), "127.0.0.1:1".to_owned()), ("b".to_owned(), "127.0.0.2:1".to_owned())];
        let text = Kubeconfig::render_all(&servers, "CA", "admin", "CERT", "KEY");
        let read = Kubeconfig::parse(&text, None, None).unwrap();
        assert_eq!(read.remote.servers, ["127.0.0.1:1", "127.0.0.2:1"]);
        let read = Kubeconfig::parse(&text, None, Some("b")).unwrap();
        assert_eq!(read.remote.servers, ["127.0.0.2:1", "127.0.0.1:1"]);
    }

    #[test]
    fn files_tokens_and_contexts() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.crt"), "FILE").unwrap();
        let text = "clusters: [{name: c, cluster: {server: https://h/x, certificate-authority: ca.crt}}]\n\
            contexts: [{name: a, context: {cluster: c, user: u, namespace: zoo}}]\n\
            users: [{name: u, user: {token: t}}]\n";
        let read = Kubeconfig::parse(text, Some(directory.path()), Some("a")).unwrap();
        assert_eq!((read.remote.ca_pem.as_str(), read.namespace.as_str()), ("FILE", "zoo"));
        assert_eq!(read.remote.servers, ["h:443"]);
        assert!(matches!(read.remote.identity, Identity::Token(t) if t == "t"));
        assert!(Kubeconfig::parse(text, None, None).is_err(), "no current context");
        assert!(Kubeconfig::parse(text, None, Some("b")).is_err());
    }
}
