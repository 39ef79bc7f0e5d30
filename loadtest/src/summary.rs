//! Many durations in a few numbers.

use std::time::Duration;

use serde_json::{Value, json};

/// Median, 99th percentile and maximum, in milliseconds.
pub(crate) fn milliseconds(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len().saturating_sub(1)) as f64 * share).round() as usize;
        times.get(index).map_or(0.0, |time| (time.as_secs_f64() * 100_000.0).round() / 100.0)
    };
    json!({"count": times.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let summary = milliseconds((1..=100).map(Duration::from_millis).collect());
        assert_eq!((summary["p50"].as_f64(), summary["max"].as_f64()), (Some(51.0), Some(100.0)));
        assert_eq!(milliseconds(Vec::new())["count"], 0);
    }
}
