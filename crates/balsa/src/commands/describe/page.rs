//! Text in which cells between tabs line up with those above and below: how `kubectl describe` lays out
//! what it says.

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::Timestamp;
use serde_json::Value;

/// Between a cell and the next.
const GAP: usize = 2;

/// Lines that are not aligned yet.
#[derive(Default)]
pub(super) struct Page(Vec<String>);

impl Page {
    /// Adds a line.
    pub(super) fn line(&mut self, indent: usize, text: impl Display) {
        self.0.push(format!("{:indent$}{text}", ""));
    }

    /// Adds a name and its value.
    pub(super) fn field(&mut self, indent: usize, name: &str, value: impl Display) {
        self.line(indent, format!("{name}:\t{value}"));
    }

    /// The same, when there is a value.
    pub(super) fn field_if(&mut self, indent: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.field(indent, name, value);
        }
    }

    /// Adds a name and several values under each other.
    pub(super) fn values(&mut self, indent: usize, name: &str, values: &[String]) {
        self.field(indent, name, values.first().map_or("<none>", String::as_str));
        values.iter().skip(1).for_each(|value| self.line(indent, format!("\t{value}")));
    }

    /// Adds a heading and amounts, one a line.
    pub(super) fn amounts(&mut self, indent: usize, heading: &str, amounts: &Value) {
        let Some(amounts) = amounts.as_object().filter(|amounts| !amounts.is_empty()) else { return };
        self.line(indent, format!("{heading}:"));
        let mut amounts: Vec<_> = amounts.iter().collect();
        amounts.sort_by_key(|(name, _)| *name);
        amounts.into_iter().for_each(|(name, amount)| self.field(indent + 2, name, plain(amount)));
    }

    /// Adds a table under headings.
    pub(super) fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) {
        self.line(2, headings.join("\t"));
        let rule = |heading: &&str| "-".repeat(heading.len());
        self.line(2, headings.iter().map(rule).collect::<Vec<_>>().join("\t"));
        rows.iter().for_each(|row| self.line(2, row.join("\t")));
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        let lines: Vec<Vec<&str>> = self.0.iter().map(|line| line.split('\t').collect()).collect();
        let mut widths: Vec<Vec<usize>> = vec![Vec::new(); lines.len()];
        measure(&lines, &mut widths);
        let mut text = String::new();
        for (line, widths) in lines.iter().zip(widths) {
            let (last, cells) = line.split_last().map_or(("", &[][..]), |(last, cells)| (*last, cells));
            let mut row = String::new();
            cells.iter().zip(widths).for_each(|(cell, width)| row += &format!("{cell:width$}"));
            text += (row + last).trim_end();
            text.push('\n');
        }
        text
    }
}

/// Gives the cells of each column the width of the widest among neighbours: a line in which the column ends
/// nothing (a tab follows its cells) parts those above from those below.
fn measure(lines: &[Vec<&str>], widths: &mut [Vec<usize>]) {
    let column = widths.first().map_or(0, Vec::len);
    let has_cell = |line: &Vec<&str>| line.len() > column + 1;
    let mut start = 0;
    while start < lines.len() {
        let length = lines[start..].iter().take_while(|line| has_cell(line)).count();
        let run = start..start + length;
        let width = lines[run.clone()].iter().map(|line| line[column].chars().count()).max();
        if let Some(width) = width {
            widths[run.clone()].iter_mut().for_each(|widths| widths.push(width + GAP));
            measure(&lines[run.clone()], &mut widths[run]);
        }
        start += length.max(1);
    }
}

/// The text at a place; empty when there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items at a place.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The number at a place, or 0.
pub(super) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether it says `true` at a place.
pub(super) fn is_true(value: &Value, pointer: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
}

/// A value as text: strings without quotes.
pub(super) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What is not there, as kubectl says it.
pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// `a=b` for each pair at a place.
pub(super) fn pairs(value: &Value, pointer: &str) -> Vec<String> {
    let map: BTreeMap<&String, &Value> =
        value.pointer(pointer).and_then(Value::as_object).into_iter().flatten().collect();
    map.into_iter().map(|(name, value)| format!("{name}={}", plain(value))).collect()
}

/// The time at a place, as kubectl writes times.
pub(super) fn time(value: &Value, pointer: &str) -> String {
    let text = text(value, pointer);
    match text.parse::<Timestamp>() {
        Ok(time) => time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_line_up_with_their_neighbours() {
        let mut page = Page::default();
        page.field(0, "Name", "web");
        page.values(0, "Labels", &["a=1".to_owned(), "b=2".to_owned()]);
        page.line(0, "Containers:");
        page.field(2, "A", "x");
        page.field(2, "Longer", "y\tOptional: true");
        page.field(2, "B", "a longer one\tOptional: false");
        assert_eq!(
            page.finish(),
            "Name:    web\nLabels:  a=1\n         b=2\nContainers:\n  A:       x\n  \
             Longer:  y             Optional: true\n  B:       a longer one  Optional: false\n"
        );
    }

    #[test]
    fn times_are_written_out() {
        let value = serde_json::json!({"a": "2026-11-28T03:28:04Z"});
        assert_eq!(time(&value, "/a"), "Sat, 28 Nov 2026 03:28:04 +0000");
        assert_eq!(time(&value, "/b"), "");
    }
}
