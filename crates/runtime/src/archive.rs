//! Image archives made from nothing but files: the pause image, demo images, images of tests.
//!
//! The form is that of `docker save`: `manifest.json`, one configuration, one layer. The same
//! input gives the same bytes (no times, no users, sorted paths), so an image built twice is the
//! same image to the engine.

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// An image in the making.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    name: String,
    architecture: String,
    entries: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    env: Vec<String>,
    user: String,
    working_dir: String,
    exposed_ports: Vec<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, bytes: Bytes },
    Symlink { to: String },
}

impl ImageBuilder {
    /// An empty image that will be called `name:tag`, for programs of this machine's architecture.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            architecture: go_architecture(std::env::consts::ARCH).to_owned(),
            entries: BTreeMap::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            user: String::new(),
            working_dir: String::new(),
            exposed_ports: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    /// For programs of another architecture, named as Go does.
    pub fn architecture(mut self, architecture: impl Into<String>) -> Self {
        self.architecture = architecture.into();
        self
    }

    /// Puts a file at an absolute path; its directories are made.
    pub fn file(self, path: &str, mode: u32, bytes: impl Into<Bytes>) -> Self {
        self.entry(path, Entry::File { mode, bytes: bytes.into() })
    }

    /// Puts a directory at an absolute path.
    pub fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, Entry::Directory { mode })
    }

    /// Puts a symbolic link at an absolute path.
    pub fn symlink(self, path: &str, to: impl Into<String>) -> Self {
        self.entry(path, Entry::Symlink { to: to.into() })
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }

    /// What is run.
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// The arguments it gets unless others are given.
    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.cmd = words.into_iter().map(Into::into).collect();
        self
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Who runs it.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = user.into();
        self
    }

    /// Where it starts.
    pub fn working_dir(mut self, path: impl Into<String>) -> Self {
        self.working_dir = path.into();
        self
    }

    /// A port it listens on, `8080/tcp`.
    pub fn expose(mut self, port: impl Into<String>) -> Self {
        self.exposed_ports.push(port.into());
        self
    }

    /// A label of the image.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// The archive, for [`crate::Runtime::load_image`].
    pub fn build(&self) -> Result<Bytes> {
        self.archive().map(Bytes::from).map_err(|error| Error::Invalid {
            message: format!("image {} cannot be written as an archive: {error}", self.name),
        })
    }

    fn archive(&self) -> std::io::Result<Vec<u8>> {
        let layer = self.layer()?;
        let diff_id = hex(&Sha256::digest(&layer));
        let config = serde_json::to_vec(&self.config(&diff_id))?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{diff_id}.tar");
        let manifest = serde_json::to_vec(
            &json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": [layer_name] }]),
        )?;
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in
            [(config_name.as_str(), &config), (layer_name.as_str(), &layer), ("manifest.json", &manifest)]
        {
            archive.append_data(&mut header(0o644, bytes.len()), name, bytes.as_slice())?;
        }
        archive.into_inner()
    }

    fn layer(&self) -> std::io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            match entry {
                Entry::Directory { mode } => {
                    let mut header = header(*mode, 0);
                    header.set_entry_type(tar::EntryType::Directory);
                    layer.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Entry::File { mode, bytes } => {
                    layer.append_data(&mut header(*mode, bytes.len()), path, bytes.as_ref())?;
                }
                Entry::Symlink { to } => {
                    let mut header = header(0o777, 0);
                    header.set_entry_type(tar::EntryType::Symlink);
                    layer.append_link(&mut header, path, to)?;
                }
            }
        }
        layer.into_inner()
    }

    fn config(&self, diff_id: &str) -> Value {
        let exposed: serde_json::Map<String, Value> =
            self.exposed_ports.iter().map(|port| (port.clone(), json!({}))).collect();
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.cmd,
                "Env": self.env,
                "User": self.user,
                "WorkingDir": self.working_dir,
                "ExposedPorts": exposed,
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
            "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "balsa" }],
        })
    }
}

fn header(mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// The names that an image archive brings.
pub(crate) fn archive_tags(archive: &[u8]) -> Result<Vec<String>> {
    let wrong = |what: String| Error::Invalid { message: format!("not an image archive: {what}") };
    let mut reader = tar::Archive::new(archive);
    for entry in reader.entries().map_err(|e| wrong(e.to_string()))? {
        let mut entry = entry.map_err(|e| wrong(e.to_string()))?;
        if entry.path().is_ok_and(|path| path.as_os_str() == "manifest.json") {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
            let manifest: Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
            return Ok(manifest
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|image| image["RepoTags"].as_array())
                .flatten()
                .filter_map(|tag| tag.as_str().map(str::to_owned))
                .collect());
        }
    }
    Err(wrong("it has no manifest.json".to_owned()))
}

/// Go's name for an architecture that Rust names.
pub(crate) fn go_architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Bytes as lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageBuilder {
        ImageBuilder::new("balsa/test:1")
            .file("/usr/bin/tool", 0o755, "x")
            .symlink("/bin/sh", "/usr/bin/tool")
            .directory("/tmp", 0o1777)
            .entrypoint(["/usr/bin/tool"])
            .env("A", "b")
            .expose("80/tcp")
    }

    #[test]
    fn the_same_input_gives_the_same_archive() {
        assert_eq!(image().build().unwrap(), image().build().unwrap());
    }

    #[test]
    fn the_archive_names_its_images() {
        assert_eq!(archive_tags(&image().build().unwrap()).unwrap(), ["balsa/test:1"]);
        assert!(matches!(archive_tags(b"no tar at all"), Err(Error::Invalid { .. })));
    }

    #[test]
    fn directories_come_before_what_they_hold() {
        let layer = image().layer().unwrap();
        let paths: Vec<String> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["bin/", "bin/sh", "tmp/", "usr/", "usr/bin/", "usr/bin/tool"]);
    }
}
