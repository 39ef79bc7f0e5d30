//! What is told about long work: a spinner for people at a terminal, lines for everybody else.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Tells of steps.
pub(crate) struct Progress {
    spinner: Option<ProgressBar>,
    /// Where a detached process tells them to whoever started it.
    file: Option<Mutex<File>>,
}

impl Progress {
    /// To standard error.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { spinner: None, file: None };
        }
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}") {
            spinner.set_style(style.tick_strings(&["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏", "✔"]));
        }
        spinner.enable_steady_tick(Duration::from_millis(100));
        Self { spinner: Some(spinner), file: None }
    }

    /// Into a file, for [`follow`].
    pub(crate) fn into_file(path: &Path) -> anyhow::Result<Self> {
        Ok(Self { spinner: None, file: Some(Mutex::new(File::create(path)?)) })
    }

    /// What is being done now.
    pub(crate) fn doing(&self, step: impl AsRef<str>) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(step.as_ref().to_owned());
        }
        self.record("doing", step.as_ref());
    }

    /// What is done.
    pub(crate) fn done(&self, step: impl AsRef<str>) {
        let step = step.as_ref();
        match (&self.spinner, &self.file) {
            (Some(spinner), _) => spinner.println(format!("✔ {step}")),
            (None, None) => crate::output::tell(format_args!("{step}")),
            (None, Some(_)) => {}
        }
        self.record("done", step);
    }

    /// Tells a step that another process has told.
    pub(crate) fn repeat(&self, line: &str) {
        match line.split_once(' ') {
            Some(("done", step)) => self.done(step),
            Some(("doing", step)) => self.doing(step),
            _ => {}
        }
    }

    /// All is told.
    pub(crate) fn finish(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        self.record("ready", "");
    }

    fn record(&self, word: &str, step: &str) {
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let _ = writeln!(file, "{word} {step}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
