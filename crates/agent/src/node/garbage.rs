//! Images that go when the disk fills up: those that this node has pulled, the longest unused first, until there
//! is room again. What somebody else brought to the machine is not the node's, and stays.
//!
//! What was pulled is written down, so that it is known over a restart of the agent. A list that is lost costs
//! nothing but room: an image that is pulled again is known again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use balsa_rt::Clock;
use balsa_runtime::Runtime;
use jiff::Timestamp;

use crate::files::write_file;
use crate::node::facts;

/// Between two looks at the disk.
const LOOK: Duration = Duration::from_secs(60);
/// Percent of the disk in use above which images go, and at which enough have gone: the kubelet's.
const HIGH: u8 = 85;
/// See above.
const LOW: u8 = 80;
/// An image that was wanted so lately may be wanted again by a container that is being made.
const YOUNG: Duration = Duration::from_secs(120);

/// The images that this node has pulled, and when each was wanted last.
pub(crate) struct Pulled {
    path: PathBuf,
    clock: Clock,
    known: Mutex<BTreeMap<String, Timestamp>>,
}

impl Pulled {
    /// What the file knows; a file that cannot be read knows nothing.
    pub(crate) fn open(path: PathBuf, clock: Clock) -> Self {
        let text = std::fs::read(&path).unwrap_or_default();
        Self { path, clock, known: Mutex::new(serde_json::from_slice(&text).unwrap_or_default()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A container wants an image, which was `pulled` for it, or was here.
    pub(crate) fn wanted(&self, image: &str, pulled: bool) {
        let mut known = self.lock();
        if pulled || known.contains_key(image) {
            known.insert(image.to_owned(), self.clock.now_seconds());
            self.keep(&known);
        }
    }

    fn forget(&self, image: &str) {
        let mut known = self.lock();
        known.remove(image);
        self.keep(&known);
    }

    fn keep(&self, known: &BTreeMap<String, Timestamp>) {
        let text = serde_json::to_vec(known).unwrap_or_default();
        if let Err(error) = write_file(&self.path, &text, 0o644) {
            tracing::warn!(%error, path = %self.path.display(), "the list of pulled images is not kept");
        }
    }

    /// Those that nobody has wanted lately, the longest first.
    fn idle(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut idle: Vec<(Timestamp, String)> = self.lock().iter().map(|(n, at)| (*at, n.clone())).collect();
        idle.retain(|(at, _)| Duration::try_from(now.duration_since(*at)).is_ok_and(|age| age > YOUNG));
        idle.sort();
        idle.into_iter().map(|(_, image)| image).collect()
    }
}

/// Keeps room on the disk, for ever.
pub(crate) async fn watch(pulled: Arc<Pulled>, runtime: Arc<dyn Runtime>, disk: PathBuf) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        make_room(&pulled, &*runtime, || facts::disk_used(&disk)).await;
    }
}

/// Removes idle images while the disk is too full.
async fn make_room(pulled: &Pulled, runtime: &dyn Runtime, used: impl Fn() -> u8) {
    if used() < HIGH {
        return;
    }
    for image in pulled.idle() {
        if used() <= LOW {
            return;
        }
        match runtime.remove_image(&image).await {
            Ok(()) => {
                tracing::info!(image, "removed to make room on the disk");
                pulled.forget(&image);
            }
            // A container has it; it is asked again at the next look.
            Err(error) if error.is_conflict() => {}
            Err(error) => tracing::warn!(image, %error, "image not removed"),
        }
    }
    if used() > LOW {
        tracing::warn!("the disk is nearly full, and no image is left that could go");
    }
}

/// Where the list is, in a node's directory.
pub(crate) fn list_in(data_dir: &Path) -> PathBuf {
    data_dir.join("pulled-images.json")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::Cell;

    use balsa_runtime::{ContainerConfig, SimulatedRuntime};

    use super::*;

    #[tokio::test]
    async fn the_longest_unused_go_until_there_is_room() {
        let root = tempfile::tempdir().unwrap();
        let time = balsa_rt::ManualClock::at(Timestamp::from_second(1_000_000).unwrap());
        let runtime = SimulatedRuntime::builder().images_must_be_pulled().build();
        let pulled = Pulled::open(list_in(root.path()), time.clock());
        for image in ["used:1", "old:1", "older:1", "oldest:1", "foreign:1"] {
            runtime.pull(image, None, None).await.unwrap();
        }
        for image in ["used:1", "oldest:1", "older:1", "old:1"] {
            pulled.wanted(image, true);
            time.advance(Duration::from_secs(300));
        }
        pulled.wanted("foreign:1", false);
        let config =
            ContainerConfig { name: "c".into(), image: "used:1".into(), ..ContainerConfig::default() };
        runtime.create_container(&config).await.unwrap();
        runtime.pull("young:1", None, None).await.unwrap();
        pulled.wanted("young:1", true);

        let left = async || {
            let mut names: Vec<_> =
                runtime.list_images().await.unwrap().into_iter().flat_map(|i| i.repo_tags).collect();
            names.retain(|name| !name.starts_with("balsa/"));
            names.sort();
            names
        };
        make_room(&pulled, &runtime, || HIGH - 1).await;
        assert_eq!(left().await.len(), 6, "there is room");
        // Each image that goes makes some room.
        let looks = Cell::new(HIGH + 3);
        let used = || looks.replace(looks.get() - 2);
        make_room(&pulled, &runtime, used).await;
        assert_eq!(left().await, ["foreign:1", "old:1", "used:1", "young:1"]);
        let again = Pulled::open(list_in(root.path()), time.clock());
        make_room(&again, &runtime, || 99).await;
        assert_eq!(
            left().await,
            ["foreign:1", "used:1", "young:1"],
            "what was pulled is known after a restart"
        );
    }
}
