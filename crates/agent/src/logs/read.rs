//! From the file to whoever asks: tail, since, timestamps, limit, follow.
//!
//! A reader keeps its file open over rotations, reads it to its end and then goes on with the one that was
//! begun after it; so it misses nothing that was not removed before it came to it.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::file::{OLDER_FILES, older};
use super::{LogName, Logs, format};

/// Which part of a log.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogQuery {
    /// Go on until the container ends.
    pub follow: bool,
    /// The log of the attempt before.
    pub previous: bool,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Only lines of this time and later.
    pub since: Option<Timestamp>,
    /// Put the time in front of each line.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit: Option<usize>,
}

/// There is no such log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoLog(pub String);

impl Logs {
    /// Reads a log. The stream ends where the log does, or with what kept it from being read.
    pub(crate) fn read(
        self: &Arc<Self>,
        name: &LogName,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<io::Result<Bytes>>, NoLog> {
        let mut attempts = self.attempts(name);
        attempts.sort_unstable();
        let attempt = if query.previous { attempts.iter().rev().nth(1) } else { attempts.last() };
        let missing = if query.previous { "previous terminated container" } else { "container" };
        let attempt = attempt.ok_or_else(|| {
            NoLog(format!("{missing} \"{}\" in pod \"{}\" not found", name.container, name.pod))
        })?;
        let path = self.path(name, *attempt);
        let progress = self.progress_of(&path).filter(|_| query.follow);
        // A few pieces of at most 64 KiB wait for a slow reader.
        let (sender, receiver) = mpsc::channel(16);
        balsa_rt::spawn(balsa_rt::TaskKind::Helper, async move {
            let mut out = Output {
                sender,
                left: query.limit,
                buffer: Vec::new(),
                timestamps: query.timestamps,
                continues: false,
            };
            if let Err(error) = send(path, &query, progress, &mut out).await {
                let _ = out.sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }

    fn attempts(&self, name: &LogName) -> Vec<u32> {
        let entries = fs::read_dir(self.directory(name)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok()).collect()
    }
}

/// Bytes gathered before they are sent.
const PIECE: usize = 64 << 10;

struct Output {
    sender: mpsc::Sender<io::Result<Bytes>>,
    left: Option<usize>,
    buffer: Vec<u8>,
    timestamps: bool,
    /// The last line goes on.
    continues: bool,
}

impl Output {
    fn is_full(&self) -> bool {
        self.left == Some(0) || self.sender.is_closed()
    }

    async fn line(&mut self, line: &format::Line<'_>) {
        let mut text = Vec::with_capacity(line.text.len() + 40);
        if self.timestamps && !self.continues {
            text.extend_from_slice(line.stamp);
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
        self.continues = line.partial;
        if let Some(left) = &mut self.left {
            text.truncate(*left);
            *left -= text.len();
        }
        self.buffer.extend_from_slice(&text);
        if self.buffer.len() >= PIECE {
            self.flush().await;
        }
    }

    async fn flush(&mut self) {
        if !self.buffer.is_empty() {
            // A reader that is gone is noticed by `is_full`.
            let _ = self.sender.send(Ok(std::mem::take(&mut self.buffer).into())).await;
        }
    }
}

async fn send(
    path: PathBuf,
    query: &LogQuery,
    progress: Option<watch::Receiver<u64>>,
    out: &mut Output,
) -> io::Result<()> {
    let mut skip = match query.tail {
        Some(tail) => count_lines(&path, query.since)?.saturating_sub(tail),
        None => 0,
    };
    let mut reader = BufReader::new(oldest(&path)?);
    copy_all(&mut reader, &path, query.since, &mut skip, out).await?;
    let Some(mut progress) = progress else { return Ok(()) };
    while !out.is_full() {
        let closed = out.sender.clone();
        let more = tokio::select! {
            () = closed.closed() => return Ok(()),
            changed = progress.changed() => changed.is_ok(),
        };
        copy_all(&mut reader, &path, query.since, &mut skip, out).await?;
        if !more {
            break;
        }
    }
    Ok(())
}

/// The files of a log that are there, newest first.
fn newest_first(path: &Path) -> impl Iterator<Item = File> {
    let names = std::iter::once(path.to_owned()).chain((1..=OLDER_FILES).map(|n| older(path, n)));
    names.filter_map(|name| File::open(name).ok())
}

fn oldest(path: &Path) -> io::Result<File> {
    newest_first(path).last().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The file that was begun after `file`, if there is one. After a file that was removed in the meantime the oldest
/// that is left.
fn next(path: &Path, file: &File) -> io::Result<Option<File>> {
    let inode = file.metadata()?.ino();
    let mut later = None;
    for other in newest_first(path) {
        if other.metadata()?.ino() == inode {
            break;
        }
        later = Some(other);
    }
    Ok(later)
}

fn count_lines(path: &Path, since: Option<Timestamp>) -> io::Result<usize> {
    let mut count = 0;
    for file in newest_first(path) {
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            let wanted = format::parse(&line).filter(|line| since.is_none_or(|since| line.time >= since));
            count += usize::from(wanted.is_some_and(|line| !line.partial));
        }
    }
    Ok(count)
}

/// Copies what is there now, in this file and in those after it.
async fn copy_all(
    reader: &mut BufReader<File>,
    path: &Path,
    since: Option<Timestamp>,
    skip: &mut usize,
    out: &mut Output,
) -> io::Result<()> {
    copy(reader, since, skip, out).await?;
    while let Some(file) = next(path, reader.get_ref())? {
        // It was written to until the next one was begun.
        copy(reader, since, skip, out).await?;
        *reader = BufReader::new(file);
        copy(reader, since, skip, out).await?;
    }
    out.flush().await;
    Ok(())
}

/// Copies whole lines up to the end of the file; what comes after `skip` lines.
async fn copy(
    reader: &mut BufReader<File>,
    since: Option<Timestamp>,
    skip: &mut usize,
    out: &mut Output,
) -> io::Result<()> {
    let mut line = Vec::new();
    while !out.is_full() {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if line.pop() != Some(b'\n') {
            // Half a line: the rest is not written yet.
            let back = i64::try_from(read).unwrap_or(0);
            return reader.seek_relative(-back);
        }
        let Some(parsed) = format::parse(&line).filter(|line| since.is_none_or(|since| line.time >= since))
        else {
            continue;
        };
        if *skip > 0 {
            *skip -= usize::from(!parsed.partial);
            continue;
        }
        out.line(&parsed).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(path: &Path, seconds: std::ops::Range<i64>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text: String = seconds
            .map(|n| format!("{:.9} stdout F line {n}\n", Timestamp::from_second(n).unwrap()))
            .collect();
        fs::write(path, text).unwrap();
    }

    async fn read(path: &Path, query: LogQuery) -> String {
        let (sender, mut receiver) = mpsc::channel(100);
        let mut out = Output {
            sender,
            left: query.limit,
            buffer: Vec::new(),
            timestamps: query.timestamps,
            continues: false,
        };
        send(path.to_owned(), &query, None, &mut out).await.unwrap();
        drop(out);
        let mut text = Vec::new();
        while let Some(piece) = receiver.recv().await {
            text.extend_from_slice(&piece.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn parts_of_a_log() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("c/0.log");
        write(&older(&path, 1), 1..3);
        write(&path, 3..5);
        let query = LogQuery::default;
        assert_eq!(read(&path, query()).await, "line 1\nline 2\nline 3\nline 4\n");
        assert_eq!(read(&path, LogQuery { tail: Some(3), ..query() }).await, "line 2\nline 3\nline 4\n");
        assert_eq!(read(&path, LogQuery { tail: Some(0), ..query() }).await, "");
        assert_eq!(read(&path, LogQuery { limit: Some(9), ..query() }).await, "line 1\nli");
        let since = Timestamp::from_second(4).ok();
        let shown = read(&path, LogQuery { since, timestamps: true, ..query() }).await;
        assert_eq!(shown, "1970-01-01T00:00:04.000000000Z line 4\n");
    }

    #[test]
    fn after_a_file_comes_the_one_that_was_begun_after_it() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("c/0.log");
        write(&path, 1..2);
        let first = File::open(&path).unwrap();
        assert!(next(&path, &first).unwrap().is_none());
        let inode = |file: &File| file.metadata().unwrap().ino();
        fs::rename(&path, older(&path, 2)).unwrap();
        write(&older(&path, 1), 2..3);
        write(&path, 3..4);
        let second = next(&path, &first).unwrap().unwrap();
        assert_eq!(inode(&second), inode(&File::open(older(&path, 1)).unwrap()), "none is skipped");
        fs::remove_file(older(&path, 2)).unwrap();
        assert_eq!(inode(&next(&path, &first).unwrap().unwrap()), inode(&second), "the oldest that is left");
    }
}
