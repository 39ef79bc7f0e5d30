//! Memory as the ground of a volume: a tmpfs over its directory. What is there is gone when it is unmounted.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::VolumeError;

/// Whether something is mounted there: then it is another device than the directory around it.
pub(super) fn is_mounted(directory: &Path) -> io::Result<bool> {
    let around = directory.parent().unwrap_or(directory);
    Ok(directory.metadata()?.dev() != around.metadata()?.dev())
}

/// Mounts memory over a directory, open to everybody.
pub(super) fn mount_memory(directory: &Path, size: Option<i64>) -> Result<(), VolumeError> {
    let options = size.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
    mount_tmpfs(directory, &options)
}

/// Mounts memory for what is secret: what is in it is its owners' to remove, and is not swapped out to a disk
/// where the kernel can promise that (since 6.4).
pub(super) fn mount_for_secrets(directory: &Path) -> Result<(), VolumeError> {
    mount_tmpfs(directory, "mode=1777,noswap").or_else(|_| mount_tmpfs(directory, "mode=1777"))
}

fn mount_tmpfs(directory: &Path, options: &str) -> Result<(), VolumeError> {
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(options))
        .map_err(|errno| VolumeError::Source(format!("cannot mount memory: {errno}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mount_is_told_from_a_directory() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        let root = tempfile::tempdir().unwrap();
        let plain = root.path().join("plain");
        std::fs::create_dir(&plain).unwrap();
        assert!(!is_mounted(&plain).unwrap());
        assert!(is_mounted(&root.path().join("none")).is_err());
    }
}
