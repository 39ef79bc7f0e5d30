//! Which cluster a command speaks to, as whom, and in which namespace.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use balsa_client::remote::RemoteBackend;
use balsa_model::{Key, KindRef};

use crate::kubeconfig::Kubeconfig;

/// What all commands that speak to a cluster understand.
#[derive(clap::Args)]
pub(crate) struct ConnectArgs {
    /// Kubeconfig with the cluster's address and your certificate [default: KUBECONFIG, then
    /// admin.kubeconfig in the data directory]
    #[arg(long, value_name = "FILE", env = "BALSA_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, instead of its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace, instead of the context's
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
}

/// A cluster to speak to.
pub(crate) struct Session {
    /// The cluster.
    pub(crate) remote: RemoteBackend,
    /// The namespace that is meant where none is named.
    pub(crate) namespace: String,
    /// Whether the command line named it.
    pub(crate) namespace_given: bool,
}

impl ConnectArgs {
    /// Reads the kubeconfig. Nothing is asked of the cluster yet.
    pub(crate) fn open(&self) -> anyhow::Result<Session> {
        let path = self.path()?;
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
        let parsed = Kubeconfig::parse(&text, path.parent(), self.context.as_deref())
            .with_context(|| format!("kubeconfig {}", path.display()))?;
        let remote = RemoteBackend::connect(&parsed.remote)
            .with_context(|| format!("kubeconfig {}", path.display()))?;
        let namespace = self.namespace.clone().unwrap_or(parsed.namespace);
        Ok(Session { remote, namespace, namespace_given: self.namespace.is_some() })
    }

    fn path(&self) -> anyhow::Result<PathBuf> {
        if let Some(path) = &self.kubeconfig {
            return Ok(path.clone());
        }
        let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
        let own = crate::output::data_dir().join("admin.kubeconfig");
        let found = std::env::split_paths(&listed).chain([own.clone()]).find(|path| path.is_file());
        match found {
            Some(path) => Ok(path),
            None => bail!(
                "no cluster is known: {} does not exist; start one with `balsa up`, or name a kubeconfig with --kubeconfig",
                own.display()
            ),
        }
    }
}

impl Session {
    /// The place of an object in the session's namespace.
    pub(crate) fn key(&self, kind: KindRef, name: &str) -> Key {
        let namespace = if kind.descriptor().is_namespaced() { self.namespace.as_str() } else { "" };
        Key::new(namespace, name)
    }
}
