//! Tables as `kubectl get` prints them: the kinds' own columns and rows.

use balsa_agent::PROXY_ANNOTATION;
use balsa_model::table::Cell;
use balsa_model::{KindRef, Object};
use jiff::Timestamp;
use serde_json::Value;

use super::CustomColumns;

/// Between two columns.
const GAP: usize = 3;
/// A column and its gap are at least that wide.
const LEAST: usize = 6;

/// Rows under headings, each column as wide as its widest cell.
#[derive(Default)]
pub(crate) struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
    widths: Vec<usize>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let headings: Vec<String> = headings.into_iter().map(Into::into).collect();
        let widths = headings.iter().map(|heading| heading.chars().count()).collect();
        Self { headings, rows: Vec::new(), widths }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = (*width).max(cell.chars().count());
        }
        self.rows.push(cells);
    }

    /// The text, with or without headings. Widths are kept for rows that come later.
    pub(crate) fn render(&mut self, with_headings: bool) -> String {
        let mut text = String::new();
        if with_headings {
            self.render_row(&self.headings, &mut text);
        }
        for row in &self.rows {
            self.render_row(row, &mut text);
        }
        self.rows.clear();
        text
    }

    fn render_row(&self, cells: &[String], text: &mut String) {
        let mut row = String::new();
        for (cell, width) in cells.iter().zip(&self.widths) {
            row.push_str(cell);
            let padding = (width + GAP).max(LEAST) - cell.chars().count();
            row.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
}

/// Which columns are shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    /// The namespace, first.
    pub(crate) namespace: bool,
    /// Those of `-o wide`.
    pub(crate) wide: bool,
    /// These labels, a column each.
    pub(crate) of_labels: Vec<String>,
    /// All labels, last.
    pub(crate) labels: bool,
    /// Names as `pod/web`, because there are several kinds.
    pub(crate) kinds: bool,
}

/// Turns objects into rows.
pub(crate) struct Printer {
    rows: Rows,
    table: Table,
    headings: bool,
}

enum Rows {
    /// Those that a kind has.
    Own(KindRef, Columns),
    Custom(CustomColumns),
}

impl Printer {
    /// A printer for one kind. Cluster-scoped kinds have no namespace column.
    pub(crate) fn new(kind: KindRef, mut columns: Columns, headings: bool) -> Self {
        columns.namespace &= kind.descriptor().is_namespaced();
        let own = kind.descriptor().columns.iter().filter(|column| columns.wide || column.priority == 0);
        let mut names: Vec<String> = own.map(|column| column.name.to_uppercase()).collect();
        if columns.namespace {
            names.insert(0, "NAMESPACE".to_owned());
        }
        names.extend(own_column(kind).filter(|_| columns.wide).map(|(name, _)| name.to_owned()));
        let last_part = |label: &String| label.rsplit('/').next().unwrap_or_default().to_uppercase();
        names.extend(columns.of_labels.iter().map(last_part));
        if columns.labels {
            names.push("LABELS".to_owned());
        }
        Self { rows: Rows::Own(kind, columns), table: Table::new(names), headings }
    }

    /// A printer for any kind, with columns that the user made up.
    pub(crate) fn custom(columns: CustomColumns, headings: bool) -> Self {
        Self { table: columns.table(), rows: Rows::Custom(columns), headings }
    }

    /// Adds an object.
    pub(crate) fn add(&mut self, object: &Object, now: Timestamp) {
        self.table.row(match &self.rows {
            Rows::Own(kind, columns) => row(*kind, columns, object, now),
            Rows::Custom(columns) => columns.row(&super::presentable(object)),
        });
    }

    /// What was added since the last time; the headings once.
    pub(crate) fn take(&mut self) -> String {
        let headings = std::mem::take(&mut self.headings);
        self.table.render(headings)
    }
}

fn row(kind: KindRef, columns: &Columns, object: &Object, now: Timestamp) -> Vec<String> {
    let descriptor = kind.descriptor();
    let cells = match object.decode() {
        Some(typed) => typed.row(now),
        // What a newer server may send: at least its name.
        None => vec![Cell::name(object.meta())],
    };
    let shown = descriptor.columns.iter().zip(cells).filter(|(c, _)| columns.wide || c.priority == 0);
    let mut row: Vec<String> = Vec::new();
    if columns.namespace {
        row.push(object.key().namespace.to_string());
    }
    for (column, cell) in shown {
        let text = text(&cell.0);
        let prefixed = columns.kinds && column.format == "name";
        row.push(if prefixed { super::named(descriptor, &text) } else { text });
    }
    if let Some((_, annotation)) = own_column(kind).filter(|_| columns.wide) {
        let told = object.meta().annotations.as_ref().and_then(|all| all.get(annotation));
        row.push(told.map_or("<unknown>", String::as_str).to_owned());
    }
    let labels = object.meta().labels.as_ref();
    let value = |label: &String| labels.and_then(|labels| labels.get(label)).cloned().unwrap_or_default();
    row.extend(columns.of_labels.iter().map(value));
    if columns.labels {
        let pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
        row.push(if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") });
    }
    row
}

/// What only Balsa's nodes tell, beside the columns that every client shows: its name, and the annotation
/// that has it.
fn own_column(kind: KindRef) -> Option<(&'static str, &'static str)> {
    (kind.descriptor().plural == "nodes").then_some(("SERVICE-PROXY", PROXY_ANNOTATION))
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
        Value::Null => "<none>".to_owned(),
        other => other.to_string(),
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
    fn columns_are_as_wide_as_they_must_be() {
        let kind = kind_of::<ConfigMap>();
        let of_labels = vec!["a".to_owned(), "x.io/zone".to_owned()];
        let columns = Columns { namespace: true, labels: true, of_labels, ..Columns::default() };
        let mut printer = Printer::new(kind, columns, true);
        let value = json!({"metadata": {"name": "a-long-name", "namespace": "n", "labels": {"a": "b"},
            "creationTimestamp": "2026-01-01T00:00:00Z"}, "data": {"x": "1"}});
        let object = Object::seal(kind, &Object::canonical(kind, &value), Revision(1)).unwrap();
        printer.add(&object, "2026-01-01T00:00:05Z".parse().unwrap());
        assert_eq!(
            printer.take(),
            "NAMESPACE   NAME          DATA   AGE   A     ZONE   LABELS\n\
             n           a-long-name   1      5s    b            a=b\n"
        );
        printer.add(&object, "2026-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(printer.take(), "n           a-long-name   1      7s    b            a=b\n");
    }
}
