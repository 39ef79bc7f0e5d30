//! What `kubectl get` prints: columns, cells, ages.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// A column of a kind's table.
#[derive(Debug)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`, …
    pub kind: &'static str,
    /// `name` for the first column; else empty.
    pub format: &'static str,
    /// 0 is always shown, more only by `-o wide`.
    pub priority: u8,
}

impl Column {
    /// The first column of every table.
    pub const NAME: Self = Self { name: "Name", kind: "string", format: "name", priority: 0 };
    /// How old the object is.
    pub const AGE: Self = Self { name: "Age", kind: "string", format: "", priority: 0 };

    /// A column of text.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: "string", format: "", priority: 0 }
    }

    /// A column of text that only `-o wide` shows.
    pub const fn wide(name: &'static str) -> Self {
        Self { name, kind: "string", format: "", priority: 1 }
    }

    /// A column of numbers.
    pub const fn number(name: &'static str) -> Self {
        Self { name, kind: "integer", format: "", priority: 0 }
    }
}

/// The table of kinds that have nothing more to show.
pub const NAME_AND_AGE: &[Column] = &[Column::NAME, Column::AGE];

/// What stands in a row under a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell(pub Value);

impl Cell {
    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self(Value::String(text.into()))
    }

    /// A number.
    pub fn number(number: impl Into<i64>) -> Self {
        Self(Value::from(number.into()))
    }

    /// The object's name.
    pub fn name(meta: &ObjectMeta) -> Self {
        Self::text(meta.name.clone().unwrap_or_default())
    }

    /// The object's age at `now`.
    pub fn age(meta: &ObjectMeta, now: Timestamp) -> Self {
        Self::text(meta.creation_timestamp.as_ref().map_or("<unknown>".to_owned(), |t| age(t.0, now)))
    }
}

/// The time from `from` to `now` as `kubectl get` shows it.
pub fn age(from: Timestamp, now: Timestamp) -> String {
    human_duration(now.as_second() - from.as_second())
}

/// Seconds in the short form of `k8s.io/apimachinery` `HumanDuration`: at most two units, fewer the
/// longer it is.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds.max(0) {
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s / MINUTE % 60, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s / HOUR % 24, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s / DAY % 365, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_kubectl_shows_them() {
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (3_600, "60m"),
            (4 * 3600 + 120, "4h2m"),
            (50 * 3600, "2d2h"),
            (45 * 86400, "45d"),
            (800 * 86400, "2y70d"),
            (-5, "<invalid>"),
        ];
        for (seconds, text) in cases {
            assert_eq!(human_duration(seconds), text);
        }
    }
}
