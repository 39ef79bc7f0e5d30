//! The administrator's kubeconfig.

use std::path::{Path, PathBuf};

use balsa_server::{Authority, write_private};

use super::layout;
use crate::kubeconfig::Kubeconfig;

/// The administrator's user and group, as Kubernetes' own tools name them.
pub(super) const USER: &str = "kubernetes-admin";
pub(super) const GROUP: &str = "system:masters";

/// Writes the administrator's kubeconfig, with a fresh certificate, for its owner's eyes only.
pub(crate) fn write(directory: &Path, authority: &Authority, server: &str) -> anyhow::Result<PathBuf> {
    let issued = authority.issue_client(USER, &[GROUP])?;
    let server = format!("https://{server}");
    let text = Kubeconfig::render(&server, authority.certificate(), USER, &issued.certificate, &issued.key);
    let path = directory.join(layout::ADMIN);
    write_private(&path, &text)?;
    Ok(path)
}
