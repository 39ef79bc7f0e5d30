//! Manifests: files, directories, addresses or standard input, YAML or JSON, one document or many.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use balsa_model::{KindRef, kinds, yaml};
use serde_json::Value;

use crate::fetch;

/// One object of a manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Its kind.
    pub(crate) kind: KindRef,
    /// Its name; empty when one is to be generated.
    pub(crate) name: String,
    /// Its namespace, if it says one.
    pub(crate) namespace: Option<String>,
    /// The object, as it was written.
    pub(crate) value: Value,
}

impl Manifest {
    /// Its labels.
    pub(crate) fn labels(&self) -> Option<BTreeMap<String, String>> {
        serde_json::from_value(self.value.pointer("/metadata/labels")?.clone()).ok()
    }
}

/// Where manifests are.
#[derive(clap::Args)]
pub(crate) struct Files {
    /// File, directory or URL with manifests, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub(crate) files: Vec<PathBuf>,
    /// Also look into directories within directories
    #[arg(short = 'R', long)]
    recursive: bool,
}

impl Files {
    /// All objects, in order.
    pub(crate) async fn read(&self) -> anyhow::Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for file in &self.files {
            if file.as_os_str() == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).context("standard input")?;
                manifests.extend(told("standard input", parse(&text).context("standard input")?));
                continue;
            }
            if let Some(url) = fetch::url(file) {
                let text = fetch::fetch(url).await?;
                manifests.extend(told(url, parse(&text).with_context(|| url.to_owned())?));
                continue;
            }
            let mut paths = Vec::new();
            collect(file, self.recursive, true, &mut paths)?;
            if paths.is_empty() {
                bail!("{} has no files that end in .yaml, .yml or .json", file.display());
            }
            for path in paths {
                let context = || path.display().to_string();
                let text = std::fs::read_to_string(&path).with_context(context)?;
                manifests.extend(told(&context(), parse(&text).with_context(context)?));
            }
        }
        if manifests.is_empty() {
            bail!("no objects passed: name a manifest with -f FILE, or - for standard input");
        }
        Ok(manifests)
    }
}

/// The manifests at a path; in a directory by name.
fn collect(path: &Path, recursive: bool, top: bool, out: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let context = || path.display().to_string();
    if !std::fs::metadata(path).with_context(context)?.is_dir() {
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if top || known {
            out.push(path.to_owned());
        }
        return Ok(());
    }
    if !top && !recursive {
        return Ok(());
    }
    let entries: Result<Vec<_>, _> = std::fs::read_dir(path).with_context(context)?.collect();
    let mut entries: Vec<PathBuf> =
        entries.with_context(context)?.iter().map(std::fs::DirEntry::path).collect();
    entries.sort();
    entries.iter().try_for_each(|entry| collect(entry, recursive, false, out))
}

/// The manifests of a source, after its warnings were shown.
fn told(source: &str, (manifests, duplicates): (Vec<Manifest>, Vec<String>)) -> Vec<Manifest> {
    let warnings: Vec<String> = duplicates.iter().map(|what| format!("{source}: {what}")).collect();
    crate::output::warn(&warnings);
    manifests
}

/// The objects of a text, read as kubectl reads it; empty documents are passed over, lists are taken
/// apart. Beside them the keys that stand twice: the last of them counts.
pub(crate) fn parse(text: &str) -> anyhow::Result<(Vec<Manifest>, Vec<String>)> {
    let (mut manifests, mut duplicates) = (Vec::new(), Vec::new());
    for (number, document) in yaml::documents(text.as_bytes()).enumerate() {
        let context = || format!("document {}", number + 1);
        let document = document.map_err(anyhow::Error::msg).with_context(context)?;
        duplicates.extend(document.duplicates);
        if !document.value.is_null() {
            add(document.value, &mut manifests).with_context(context)?;
        }
    }
    Ok((manifests, duplicates))
}

fn add(mut value: Value, out: &mut Vec<Manifest>) -> anyhow::Result<()> {
    let text = |value: &Value, pointer: &str| {
        value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if !value.is_object() {
        bail!("is not an object: a manifest starts with apiVersion and kind");
    }
    let (version, kind_name) = (text(&value, "/apiVersion"), text(&value, "/kind"));
    if version.is_empty() || kind_name.is_empty() {
        let missing = if version.is_empty() { "apiVersion" } else { "kind" };
        bail!("{missing} not set");
    }
    if kind_name.ends_with("List") && value.get("items").is_some_and(Value::is_array) {
        let Some(Value::Array(items)) = value.get_mut("items").map(Value::take) else { return Ok(()) };
        return items.into_iter().try_for_each(|item| add(item, out));
    }
    let kind = kinds::by_api_version(&version, &kind_name).ok_or_else(|| {
        anyhow!("no matches for kind \"{kind_name}\" in version \"{version}\"; `balsa api-resources` lists those there are")
    })?;
    let name = text(&value, "/metadata/name");
    if name.is_empty() && text(&value, "/metadata/generateName").is_empty() {
        bail!("{kind_name}: metadata.name is missing");
    }
    let namespace = Some(text(&value, "/metadata/namespace")).filter(|n| !n.is_empty());
    out.push(Manifest { kind, name, namespace, value });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn documents_lists_and_json() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n---\n\
            {\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{\"apiVersion\": \"apps/v1\", \
            \"kind\": \"Deployment\", \"metadata\": {\"name\": \"d\", \"namespace\": \"zoo\"}}]}\n";
        let (read, duplicates) = parse(text).unwrap();
        assert!(duplicates.is_empty());
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind.descriptor().plural, read[0].name.as_str()), ("pods", "a"));
        assert_eq!(read[1].namespace.as_deref(), Some("zoo"));
    }

    #[test]
    fn numbers_and_words_are_those_of_kubectl() {
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  volumes:\n  - name: c\n    configMap: {name: c, \
            optional: yes, defaultMode: 0400}\n  hostNetwork: off\n  hostNetwork: on\n";
        let (read, duplicates) = parse(text).unwrap();
        let spec = &read[0].value["spec"];
        assert_eq!(spec["volumes"][0]["configMap"]["defaultMode"], 256);
        assert_eq!(
            (&spec["volumes"][0]["configMap"]["optional"], &spec["hostNetwork"]),
            (&true.into(), &true.into())
        );
        assert_eq!(duplicates, ["line 9: key \"hostNetwork\" already set in map"]);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, why) in [
            ("kind: Pod", "document 1: apiVersion not set"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}", "document 1: Pod: metadata.name is missing"),
            (
                "apiVersion: v2\nkind: Pod\nmetadata: {name: a}",
                "document 1: no matches for kind \"Pod\" in version \"v2\"",
            ),
            ("just text", "document 1: is not an object"),
            ("a: [", "document 1: "),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[tokio::test]
    async fn directories_are_read_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for (file, name) in [("b.yaml", "b"), ("a.json", "a"), ("notes.txt", "no")] {
            let text = format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"{name}\"}}}}"
            );
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let files = Files { files: vec![directory.path().to_owned()], recursive: false };
        let names: Vec<_> = files.read().await.unwrap().into_iter().map(|m| m.name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
