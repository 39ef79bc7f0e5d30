//! `-o custom-columns=NAME:.metadata.name,…`: a table of what paths select.

use std::str::FromStr;

use anyhow::bail;
use serde_json::Value;

use super::Table;
use crate::jsonpath::JsonPath;

/// Columns that the user made up.
#[derive(Clone, Debug)]
pub(crate) struct CustomColumns {
    headings: Vec<String>,
    paths: Vec<JsonPath>,
}

impl FromStr for CustomColumns {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut columns = Self { headings: Vec::new(), paths: Vec::new() };
        for column in text.split(',') {
            let Some((heading, path)) = column.split_once(':') else {
                bail!("unexpected custom-columns spec: {column}, expected <header>:<json-path-expr>");
            };
            columns.headings.push(heading.to_owned());
            columns.paths.push(JsonPath::parse(path)?);
        }
        Ok(columns)
    }
}

impl CustomColumns {
    /// An empty table.
    pub(crate) fn table(&self) -> Table {
        Table::new(self.headings.iter().map(String::as_str))
    }

    /// The row of an object.
    pub(crate) fn row(&self, object: &Value) -> Vec<String> {
        let cell = |path: &JsonPath| {
            let found = path.texts(object);
            if found.is_empty() { "<none>".to_owned() } else { found.join(",") }
        };
        self.paths.iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_read_and_filled() {
        let columns: CustomColumns = "NAME:.metadata.name,IMAGES:{.c[*].image},X:x".parse().unwrap();
        let mut table = columns.table();
        table.row(columns.row(&json!({"metadata": {"name": "web"}, "c": [{"image": "a"}, {"image": "b"}]})));
        assert_eq!(table.render(true), "NAME   IMAGES   X\nweb    a,b      <none>\n");
        for wrong in ["NAME", "NAME:.a,", "NAME:.a["] {
            assert!(wrong.parse::<CustomColumns>().is_err(), "{wrong}");
        }
    }
}
