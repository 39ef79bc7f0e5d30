//! Files that are either as they were or as they shall be: written beside, synced, renamed.
//!
//! [`publish`] is how volumes made from objects change: a new directory, then the symbolic link
//! `..data` renamed over the old one. A reader sees all of the old files or all of the new ones.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// A file to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileEntry {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

/// Files by their path in the volume.
pub(crate) type Files = BTreeMap<String, FileEntry>;

/// Writes a file that only its owner reads, in one step.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_file(path, bytes, 0o600)
}

/// Writes a file in one step.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    // The mode above is cut by the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(beside, path)
}

/// A path inside a volume: relative, and never up.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Makes the directory show exactly these files; true when something changed. `group` owns them and
/// may read them.
pub(crate) fn publish(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    if let Some(bad) = files.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{bad:?} leads out of the volume")));
    }
    let link = directory.join("..data");
    let old = fs::read_link(&link).ok().map(|target| directory.join(target));
    if old.as_ref().is_some_and(|old| shows(old, files)) {
        return Ok(false);
    }
    let fresh = fresh_directory(directory)?;
    for (path, file) in files {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        write_file(&target, &file.bytes, mode)?;
        if group.is_some() {
            chown(&target, None, group)?;
        }
    }
    let name = fresh.file_name().unwrap_or_default();
    let beside = directory.join("..data_new");
    let _ = fs::remove_file(&beside);
    symlink(name, &beside)?;
    fs::rename(&beside, &link)?;
    relink(directory, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

fn fresh_directory(directory: &Path) -> io::Result<PathBuf> {
    for n in 0_u32.. {
        let fresh = directory.join(format!("..{n:010}"));
        match fs::create_dir(&fresh) {
            Ok(()) => {
                fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
                return Ok(fresh);
            }
            // What is there is shown now, or a crash left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let shown = fs::read_link(directory.join("..data")).ok();
                if shown.as_deref() != fresh.file_name().map(Path::new) {
                    fs::remove_dir_all(&fresh)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free name for a new version of the volume"))
}

fn shows(directory: &Path, files: &Files) -> bool {
    let same = |(path, file): (&String, &FileEntry)| {
        fs::read(directory.join(path)).is_ok_and(|bytes| bytes == file.bytes)
    };
    files.iter().all(same) && count(directory).is_ok_and(|count| count == files.len())
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(sum)
}

/// The names that readers use are links through `..data`.
fn relink(directory: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(first).collect();
    for name in &wanted {
        let link = directory.join(name);
        let target = Path::new("..data").join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            let _ = fs::remove_file(&link);
            symlink(&target, &link)?;
        }
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| {
                ((*path).to_owned(), FileEntry { bytes: text.as_bytes().to_vec(), mode: 0o644 })
            })
            .collect()
    }

    #[test]
    fn a_volume_changes_in_one_step() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| fs::read_to_string(root.path().join(path)).ok();
        assert!(publish(root.path(), &files(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!((at("a"), at("d/b")), (Some("1".into()), Some("2".into())));
        assert!(!publish(root.path(), &files(&[("a", "1"), ("d/b", "2")]), None).unwrap(), "nothing to do");
        assert!(publish(root.path(), &files(&[("a", "3")]), None).unwrap());
        assert_eq!((at("a"), at("d/b")), (Some("3".into()), None));
        let hidden =
            fs::read_dir(root.path()).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir());
        assert_eq!(hidden.count(), 1, "old versions are removed");
    }

    #[test]
    fn nothing_is_written_outside() {
        let root = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", ""] {
            assert!(publish(root.path(), &files(&[(path, "1")]), None).is_err(), "{path}");
        }
    }

    #[test]
    fn private_files_are_private() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("d/key");
        write_private(&path, b"k").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
