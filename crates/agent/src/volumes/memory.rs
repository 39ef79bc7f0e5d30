//! Memory as the ground of a volume: a tmpfs over its directory. What is there is gone when it is unmounted,
//! and has never been on a disk.

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

/// Mounts memory over a directory, open to everybody; `sticky`: what is in it is its owners' to remove.
pub(super) fn mount_memory(directory: &Path, size: Option<i64>, sticky: bool) -> Result<(), VolumeError> {
    let mode = if sticky { "mode=1777" } else { "mode=0777" };
    let options = size.map_or_else(|| mode.to_owned(), |size| format!("{mode},size={size}"));
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
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
