//! How far a pull has come, out of the steps that the runtime tells. Pure.

use std::collections::BTreeMap;

use balsa_runtime::PullProgress;

const MIB: f64 = (1 << 20) as f64;

#[derive(Clone, Copy, Debug, Default)]
struct Layer {
    done: bool,
    current: u64,
    total: u64,
}

/// The layers of an image that is pulled.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    layers: BTreeMap<String, Layer>,
}

impl Progress {
    /// One more step. What is said of anything but a layer that was named as one does not count.
    pub(super) fn note(&mut self, step: PullProgress) {
        if matches!(step.status.as_str(), "Pulling fs layer" | "Already exists") {
            self.layers.entry(step.layer.clone()).or_default();
        }
        let Some(layer) = self.layers.get_mut(&step.layer) else { return };
        match step.status.as_str() {
            "Downloading" => (layer.current, layer.total) = (step.current, step.total),
            "Download complete" => layer.current = layer.total,
            "Pull complete" | "Already exists" => (layer.current, layer.done) = (layer.total, true),
            _ => {}
        }
    }

    /// `1 of 3 layers, 12.5 of 80.1 MiB`; none while no layer is known.
    pub(super) fn text(&self) -> Option<String> {
        if self.layers.is_empty() {
            return None;
        }
        let done = self.layers.values().filter(|layer| layer.done).count();
        let sum = |of: fn(&Layer) -> u64| self.layers.values().map(of).sum::<u64>() as f64 / MIB;
        let (current, total) = (sum(|layer| layer.current), sum(|layer| layer.total));
        Some(format!("{done} of {} layers, {current:.1} of {total:.1} MiB", self.layers.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_counted_and_summed() {
        let mut progress = Progress::default();
        let mut note = |layer: &str, status: &str, current: u64, total: u64| {
            let (layer, status) = (layer.to_owned(), status.to_owned());
            progress.note(PullProgress { layer, status, current: current << 20, total: total << 20 });
            progress.text()
        };
        assert_eq!(note("1", "Pulling from shop/toys", 0, 0), None, "the tag is no layer");
        assert_eq!(note("a", "Already exists", 0, 0).as_deref(), Some("1 of 1 layers, 0.0 of 0.0 MiB"));
        note("b", "Pulling fs layer", 0, 0);
        note("c", "Pulling fs layer", 0, 0);
        note("b", "Downloading", 1, 4);
        assert_eq!(note("c", "Downloading", 2, 8).as_deref(), Some("1 of 3 layers, 3.0 of 12.0 MiB"));
        note("c", "Verifying Checksum", 0, 0);
        note("b", "Download complete", 0, 0);
        note("b", "Extracting", 1, 4);
        assert_eq!(note("b", "Pull complete", 0, 0).as_deref(), Some("2 of 3 layers, 6.0 of 12.0 MiB"));
    }
}
