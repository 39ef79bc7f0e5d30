//! What commands that write tell of each object: a line at once, or with `-o json` all of them at the end.

use anyhow::bail;
use balsa_model::{Descriptor, Object};
use serde_json::{Value, json};

use super::{Format, Rehearsal, line, named, presentable, print, sorted};

/// `-o` of commands that write: objects as they are, or their names.
pub(crate) fn object_format(text: &str) -> anyhow::Result<Format> {
    match text.parse() {
        Ok(Format::Wide | Format::Custom(_)) | Err(_) if !text.starts_with("jsonpath=") => {
            bail!("unknown format; there are yaml, json, name and jsonpath=EXPRESSION")
        }
        format => format,
    }
}

/// Objects that were written.
pub(crate) struct Report {
    format: Option<Format>,
    dry_run: Rehearsal,
    values: Vec<Value>,
}

impl Report {
    /// Nothing has been written yet.
    pub(crate) fn new(format: Option<Format>, dry_run: Rehearsal) -> Self {
        Self { format, dry_run, values: Vec::new() }
    }

    /// Whether objects are shown as they are, not told of in a line.
    pub(crate) fn shows_objects(&self) -> bool {
        !matches!(self.format, None | Some(Format::Name))
    }

    /// Tells of an object in a line, if lines are wanted.
    pub(crate) fn line(&self, kind: &Descriptor, name: &str, done: &str) -> anyhow::Result<()> {
        let dry = self.dry_run.mark();
        match &self.format {
            None => line(format!("{} {done}{dry}", named(kind, name))),
            Some(Format::Name) => line(named(kind, name)),
            Some(_) => Ok(()),
        }
    }

    /// Keeps an object for the end, if objects are wanted.
    pub(crate) fn object(&mut self, object: &Object) {
        if self.shows_objects() {
            self.values.push(presentable(object));
        }
    }

    /// The same of an object that is none yet: what a rehearsal makes.
    pub(crate) fn value(&mut self, value: Value) {
        if self.shows_objects() {
            self.values.push(sorted(value));
        }
    }

    /// Prints the objects: one as it is, several as a list.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let Some(format) = self.format.filter(|_| !self.values.is_empty()) else { return Ok(()) };
        let value = match self.values.len() {
            1 => self.values.remove(0),
            _ => json!({"apiVersion": "v1", "items": self.values, "kind": "List", "metadata": {}}),
        };
        print(&format.render(&value)?)
    }
}
