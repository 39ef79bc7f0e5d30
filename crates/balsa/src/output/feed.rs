//! Objects that come one after another, as watches print them.

use balsa_model::{KindRef, Object};
use jiff::Timestamp;

use super::{Columns, Format, Printer, named, shown};

/// Turns objects of one kind into text, one by one.
pub(crate) struct Feed {
    format: Option<Format>,
    printer: Printer,
    text: String,
    documents: usize,
    managed_fields: bool,
}

impl Feed {
    /// Nothing has come yet. Columns are for tables, which are also what `None` means.
    pub(crate) fn new(kind: KindRef, format: Option<Format>, columns: Columns, headings: bool) -> Self {
        let printer = match &format {
            Some(Format::Custom(columns)) => Printer::custom(columns.clone(), headings),
            _ => Printer::new(kind, columns, headings),
        };
        Self { format, printer, text: String::new(), documents: 0, managed_fields: false }
    }

    /// With the servers' book-keeping, where objects are shown as they are.
    pub(crate) fn with_managed_fields(self, managed_fields: bool) -> Self {
        Self { managed_fields, ..self }
    }

    /// Adds an object.
    pub(crate) fn add(&mut self, object: &Object) -> anyhow::Result<()> {
        match &self.format {
            None | Some(Format::Wide | Format::Custom(_)) => self.printer.add(object, Timestamp::now()),
            Some(Format::Name) => {
                self.text += &named(object.kind().descriptor(), &object.key().name);
                self.text.push('\n');
            }
            Some(format) => {
                if self.documents > 0 && matches!(format, Format::Yaml) {
                    self.text += "---\n";
                }
                self.text += &format.render(&shown(object, self.managed_fields))?;
            }
        }
        self.documents += 1;
        Ok(())
    }

    /// What was added since the last time; headings with the first object.
    pub(crate) fn take(&mut self) -> String {
        match self.format {
            None | Some(Format::Wide | Format::Custom(_)) if self.documents > 0 => self.printer.take(),
            _ => std::mem::take(&mut self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use balsa_model::Revision;
    use balsa_model::kind::kind_of;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    #[test]
    fn objects_follow_each_other() {
        let kind = kind_of::<ConfigMap>();
        let value = json!({"metadata": {"name": "c", "namespace": "n"}});
        let object = Object::seal(kind, &Object::canonical(kind, &value), Revision(1)).unwrap();
        let twice = |format: &str| {
            let mut feed = Feed::new(kind, Some(format.parse().unwrap()), Columns::default(), true);
            assert_eq!(feed.take(), "");
            feed.add(&object).unwrap();
            let first = feed.take();
            feed.add(&object).unwrap();
            (first, feed.take())
        };
        assert_eq!(twice("name"), ("configmap/c\n".to_owned(), "configmap/c\n".to_owned()));
        assert_eq!(twice("custom-columns=N:.metadata.name"), ("N\nc\n".to_owned(), "c\n".to_owned()));
        let (first, second) = twice("yaml");
        assert_eq!(second, format!("---\n{first}"));
        let (first, second) = twice("json");
        assert_eq!(second, first);
    }
}
