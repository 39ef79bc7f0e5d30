//! Stands in for the crate of this name, which openraft counts batch sizes and stage times with.
//!
//! Why: the original precomputes tables for sixteen resolutions at the first histogram, 27 MiB that
//! stay resident, of which openraft uses a few hundred bytes. Here is the part of its interface that
//! openraft calls, without tables. Values are counted in buckets of four to an octave, so a percentile
//! is at most a quarter too low. Nothing else of Balsa uses it; it goes when the original has learnt to
//! make its tables when they are asked for.

use std::fmt;
use std::marker::PhantomData;

/// Bits of a value, below its highest, that its bucket tells.
const BITS: u32 = 2;
/// Buckets of one octave.
const STEPS: usize = 1 << BITS;
/// Enough for every `u64`.
const BUCKETS: usize = (u64::BITS as usize - BITS as usize + 1) * STEPS;

/// How often values of each size were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Vec<u64>,
    total: u64,
    kind: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing seen yet. Takes no memory until something is.
    pub fn new() -> Self {
        Self { counts: Vec::new(), total: 0, kind: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value several times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        if self.counts.is_empty() {
            self.counts.resize(BUCKETS, 0);
        }
        self.counts[bucket_of(value)] += count;
        self.total += count;
    }

    /// How many were counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The least value of the bucket in which that share (0 to 1) of the counted ones is reached.
    pub fn percentile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return least_of(bucket);
            }
        }
        0
    }

    /// The percentiles that are reported.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

fn bucket_of(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let shift = value.ilog2() - BITS;
    let step = (value >> shift) as usize % STEPS;
    (shift as usize + 1) * STEPS + step
}

fn least_of(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS) as u64) << shift
}

/// Percentiles of what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n={} p50={} p90={} p99={} p99.9={}", self.samples, self.p50, self.p90, self.p99, self.p99_9)
    }
}

/// Histograms with names, one a line.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart {
    lines: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// Without lines.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one line more.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.lines.push((name.into(), histogram.percentile_stats()));
        self
    }

    /// The same: there is only one form.
    #[must_use]
    pub fn detailed(&self) -> &Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_bucket_that_begins_at_most_a_quarter_below_it() {
        for value in (0..5000).chain((0..64).map(|bit| 1 << bit)).chain([u64::MAX]) {
            let least = least_of(bucket_of(value));
            assert!(least <= value && value - least <= value / 4, "{value} {least}");
        }
    }

    #[test]
    fn percentiles() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        (1..=100).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p1, stats.p50, stats.p99_9), (100, 1, 48, 96));
    }
}
