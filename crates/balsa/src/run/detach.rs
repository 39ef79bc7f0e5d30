//! `--detach`: the same command again, in the background.
//!
//! The new process writes what it does to `balsa.progress`, which the first one tells until the cluster
//! is ready, and everything else to `balsa.log`.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::layout;
use super::progress::Progress;

/// Set in the environment of the process in the background.
const MARK: &str = "BALSA_DETACHED";
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of the log that are shown when it fails.
const TAIL: usize = 10;

/// Whether this is the process in the background. It leaves the terminal's session, so that neither
/// Ctrl-C there nor its end is meant for it.
pub(crate) fn is_background() -> bool {
    let marked = std::env::var_os(MARK).is_some();
    if marked {
        // Fails only for whoever leads a session already.
        let _ = nix::unistd::setsid();
    }
    marked
}

/// Starts the process in the background and tells what it does until it is ready.
pub(crate) async fn start(directory: &Path, progress: &Progress) -> anyhow::Result<()> {
    if let Some(pid) = layout::running(directory)? {
        bail!("a cluster runs on {} already (process {pid}); stop it with `balsa down`", directory.display());
    }
    std::fs::create_dir_all(directory).with_context(|| {
        format!(
            "cannot make {}; run as root, or choose another directory with --data-dir",
            directory.display()
        )
    })?;
    let told = directory.join(layout::PROGRESS);
    let log_path = directory.join(layout::LOG_FILE);
    let _ = std::fs::remove_file(&told);
    let log = OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.with_context(|| log_path.display().to_string())?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start in the background")?;
    let mut seen = 0;
    loop {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        // Only whole lines: the last one may still be written.
        let lines: Vec<&str> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
        for line in &lines[seen.min(lines.len())..] {
            let line = line.trim_end();
            if line == "ready" {
                return Ok(());
            }
            progress.repeat(line);
        }
        seen = lines.len();
        if let Some(status) = child.try_wait()? {
            bail!(
                "the cluster did not start ({status}); the end of {}:\n{}",
                log_path.display(),
                tail(&log_path)
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
