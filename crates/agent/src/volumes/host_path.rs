//! hostPath: a file or directory of the machine, checked or made as its type says.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Job, VolumeBackend, VolumeError};

pub(super) struct HostPath;

#[async_trait]
impl VolumeBackend for HostPath {
    fn handles(&self, volume: &Volume) -> bool {
        volume.host_path.is_some()
    }

    async fn set_up(&self, job: &Job<'_>) -> Result<PathBuf, VolumeError> {
        let source = job.volume.host_path.clone().unwrap_or_default();
        let path = PathBuf::from(&source.path);
        check(&path, source.type_.as_deref().unwrap_or_default())?;
        Ok(path)
    }
}

/// Makes what may be made; refuses what is of another type.
pub(super) fn check(path: &Path, type_: &str) -> Result<(), VolumeError> {
    match type_ {
        "" if !path.exists() => fs::create_dir_all(path)?,
        "DirectoryOrCreate" => fs::create_dir_all(path)?,
        "FileOrCreate" if !path.exists() => drop(fs::File::create(path)?),
        _ => {}
    }
    let file_type = fs::metadata(path).map(|meta| meta.file_type());
    let right = match (type_, &file_type) {
        (_, Err(_)) => false,
        ("Directory", Ok(found)) => found.is_dir(),
        ("File" | "FileOrCreate", Ok(found)) => found.is_file(),
        ("Socket", Ok(found)) => found.is_socket(),
        ("CharDevice", Ok(found)) => found.is_char_device(),
        ("BlockDevice", Ok(found)) => found.is_block_device(),
        (_, Ok(_)) => true,
    };
    let wrong =
        || VolumeError::Source(format!("hostPath type check failed: {} is not a {type_}", path.display()));
    if right { Ok(()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types_are_checked_or_made() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        assert!(check(&at("none"), "Directory").is_err());
        check(&at("made"), "DirectoryOrCreate").unwrap();
        check(&at("made"), "Directory").unwrap();
        assert!(check(&at("made"), "File").is_err());
        check(&at("file"), "FileOrCreate").unwrap();
        check(&at("file"), "File").unwrap();
        check(&at("any"), "").unwrap();
        assert!(check(&at("file"), "Socket").is_err());
    }
}
