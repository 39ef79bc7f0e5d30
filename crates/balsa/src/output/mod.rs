//! How answers are printed: tables, YAML, JSON, names.

mod custom;
mod dry_run;
mod feed;
mod format;
mod report;
mod sort;
mod table;

use std::io::Write as _;
use std::path::PathBuf;

use balsa_model::Descriptor;

pub(crate) use custom::CustomColumns;
pub(crate) use dry_run::{DryRun, Rehearsal};
pub(crate) use feed::Feed;
pub(crate) use format::{Format, presentable, shown, sorted};
pub(crate) use report::{Report, object_format};
pub(crate) use sort::sort;
pub(crate) use table::{Columns, Printer, Table};

/// Writes to standard output at once.
///
/// # Errors
/// Also when nobody reads any more; `main` takes that for a success.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Writes a line to standard output.
pub(crate) fn line(text: impl std::fmt::Display) -> anyhow::Result<()> {
    print(&format!("{text}\n"))
}

/// Tells people something on standard error, in a line; whether they read it or not.
pub(crate) fn tell(line: impl std::fmt::Display) {
    tell_part(format_args!("{line}\n"));
}

/// The same without an end of line.
pub(crate) fn tell_part(text: impl std::fmt::Display) {
    let _ = write!(std::io::stderr(), "{text}");
}

/// Tells what the server warns of.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        tell(format_args!("Warning: {warning}"));
    }
}

/// The end of a command that goes on with other objects when one fails: all that went wrong, a line each.
pub(crate) fn failures(failed: &[String]) -> anyhow::Result<()> {
    if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failed.join("\nerror: "))) }
}

/// Whether the reader of our output has gone away, which is its right.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |io: &std::io::Error| io.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref::<std::io::Error>().is_some_and(broken)
}

/// `pod/web`, `deployment.apps/web`.
pub(crate) fn named(kind: &Descriptor, name: &str) -> String {
    format!("{}/{name}", singular(kind))
}

/// `pod`, `deployment.apps`.
pub(crate) fn singular(kind: &Descriptor) -> String {
    if kind.group.is_empty() { kind.singular.to_owned() } else { format!("{}.{}", kind.singular, kind.group) }
}

/// Where a cluster of this user keeps everything, unless told otherwise.
pub(crate) fn data_dir() -> PathBuf {
    if let Some(directory) = std::env::var_os("BALSA_DATA_DIR") {
        return directory.into();
    }
    match std::env::var_os("HOME") {
        Some(home) if !nix::unistd::geteuid().is_root() => PathBuf::from(home).join(".balsa"),
        _ => PathBuf::from("/var/lib/balsa"),
    }
}
