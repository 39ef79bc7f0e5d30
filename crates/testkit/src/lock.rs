//! Clusters with nodes share the machine's bridges and rules: one at a time, over all test processes.

use std::fs::File;

/// The right to be the machine's only cluster with nodes; given back when dropped.
#[derive(Debug)]
pub struct MachineLock(#[expect(dead_code, reason = "closing the file gives the lock back")] File);

impl MachineLock {
    /// Waits until nobody else has it.
    pub fn take() -> Self {
        let path = std::env::temp_dir().join("balsa-e2e.lock");
        let file = File::options().create(true).append(true).open(path).unwrap();
        file.lock().unwrap();
        Self(file)
    }
}
