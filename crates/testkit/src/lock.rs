//! Clusters with nodes share the machine's bridges and rules: one at a time, over all test processes.
//!
//! The lock's file says where the data of its holder is. Whoever takes it next takes down what a test that
//! was killed has left: its bridge would be in the way of every cluster after it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::balsa;
use crate::kubectl::run;

/// The right to be the machine's only cluster with nodes; given back when dropped.
#[derive(Debug)]
pub struct MachineLock(File);

impl MachineLock {
    /// Waits until nobody else has it, and takes down what the holder before has left, if it was killed.
    pub fn take() -> Self {
        let path = std::env::temp_dir().join("balsa-e2e.lock");
        let mut file =
            File::options().create(true).truncate(false).read(true).write(true).open(path).unwrap();
        file.lock().unwrap();
        let mut left = Vec::new();
        file.read_to_end(&mut left).unwrap();
        let data_dir = Path::new(OsStr::from_bytes(&left));
        if !left.is_empty() && data_dir.exists() {
            eprintln!("a test that was killed has left {}: balsa down", data_dir.display());
            let down = ["down".as_ref(), "--data-dir".as_ref(), data_dir.as_os_str()];
            eprintln!("{}", run(&balsa().to_string_lossy(), down, None, ""));
        }
        let mut lock = Self(file);
        lock.released();
        lock
    }

    /// Says whose data is to be taken down if this process is killed.
    pub(crate) fn holds(&mut self, data_dir: &Path) {
        self.write(data_dir.as_os_str().as_bytes());
    }

    /// Nothing is to be taken down any more.
    pub(crate) fn released(&mut self) {
        self.write(&[]);
    }

    fn write(&mut self, text: &[u8]) {
        self.0.set_len(0).unwrap();
        self.0.rewind().unwrap();
        self.0.write_all(text).unwrap();
    }
}
