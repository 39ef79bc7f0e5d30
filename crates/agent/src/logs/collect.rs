//! From the runtime to the file. The file itself says how far an earlier collection came.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use balsa_runtime::{ContainerId, Error, LogLine, LogOptions, Runtime};
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::watch;

use super::format;

/// Bytes of one file.
const MAX_SIZE: u64 = 10 << 20;
/// Older files kept beside the newest.
const OLDER: u32 = 4;
/// So much of a file's end is read to find its last line.
const TAIL: u64 = 64 << 10;
/// So many lines are written at once, at most.
const BATCH: usize = 256;

/// How long until a runtime that ended the log of a living container, or does not answer, is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// Copies until the container has ended and all of its output is in the file, or until it is gone.
///
/// That the runtime ends the log is no sign that the container has ended: Docker does it when its own
/// file rotates under a reader (seen with 20.10), and when it stops itself. So the log is asked for again,
/// from the last line on, until it was asked for after the container's end.
pub(super) async fn run(
    runtime: &dyn Runtime,
    id: &ContainerId,
    path: &Path,
    progress: &watch::Sender<u64>,
) -> io::Result<()> {
    let mut file = LogFile::open(path, MAX_SIZE)?;
    loop {
        let ended = runtime.inspect(id).await.is_ok_and(|state| !state.status.is_alive());
        match copy(runtime, id, &mut file, progress).await? {
            Ok(()) if ended => return Ok(()),
            Ok(()) => {}
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => {
                tracing::debug!(container = %id, %error, "its log broke off, and is asked for again")
            }
        }
        // Until the container ends, or for a while.
        if let Ok(Err(_)) = tokio::time::timeout(RETRY, runtime.wait(id)).await {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Copies what comes after the file's last line, for as long as the runtime tells more. The inner error
/// is the runtime's.
async fn copy(
    runtime: &dyn Runtime,
    id: &ContainerId,
    file: &mut LogFile,
    progress: &watch::Sender<u64>,
) -> io::Result<Result<(), Error>> {
    let mut known = file.end;
    let options = LogOptions { follow: true, since: known.map(|end| end.time), ..LogOptions::default() };
    let stream = match runtime.logs(id, &options).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    let mut batches = stream.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut failed = None;
        for line in batch {
            match line {
                Ok(line) if is_known(&mut known, line.time) => {}
                Ok(line) => file.write(&line)?,
                Err(error) => failed = Some(error),
            }
        }
        file.flush()?;
        progress.send_modify(|count| *count += 1);
        if let Some(error) = failed {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}

/// A log file that is written and rotated.
struct LogFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    size: u64,
    max: u64,
    /// How far it came.
    end: Option<End>,
}

/// The end of what is in a file: the last time, and how many lines have it (the pieces of a long line share
/// theirs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    time: Timestamp,
    lines: usize,
}

/// Whether a line is one of those that `known` ends with; forgets them once a later one comes.
fn is_known(known: &mut Option<End>, time: Timestamp) -> bool {
    match known {
        Some(end) if time < end.time => true,
        Some(end) if time == end.time && end.lines > 0 => {
            end.lines -= 1;
            true
        }
        _ => {
            *known = None;
            false
        }
    }
}

impl LogFile {
    fn open(path: &Path, max: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut end = end_of(&mut file)?;
        if end.is_none() {
            let older = File::open(older(path, 1));
            end = older.ok().map(|mut older| end_of(&mut older)).transpose()?.flatten();
        }
        let size = file.metadata()?.len();
        let mut opened = Self { path: path.to_owned(), file, buffer: Vec::new(), size, max, end };
        opened.end_torn_line()?;
        Ok(opened)
    }

    /// A crash may leave half a line; what follows must not be glued to it.
    fn end_torn_line(&mut self) -> io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        let mut last = [0];
        self.file.seek(SeekFrom::Start(self.size - 1))?;
        self.file.read_exact(&mut last)?;
        if last != [b'\n'] {
            self.file.write_all(b"\n")?;
            self.size += 1;
        }
        Ok(())
    }

    fn write(&mut self, line: &LogLine) -> io::Result<()> {
        let bytes = format::write(line);
        if self.size + bytes.len() as u64 > self.max && self.size > 0 {
            self.flush()?;
            self.rotate()?;
        }
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        let before = self.end.filter(|end| end.time == line.time).map_or(0, |end| end.lines);
        self.end = Some(End { time: line.time, lines: before + 1 });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..OLDER).rev() {
            rename(&older(&self.path, n), &older(&self.path, n + 1))?;
        }
        rename(&self.path, &older(&self.path, 1))?;
        self.file = OpenOptions::new().create(true).append(true).read(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The n-th older file.
pub(super) fn older(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    PathBuf::from(name)
}

/// How many older files there may be.
pub(super) const OLDER_FILES: u32 = OLDER;

fn end_of(file: &mut File) -> io::Result<Option<End>> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let mut times =
        tail.split(|byte| *byte == b'\n').rev().filter_map(|line| format::parse(line).map(|line| line.time));
    let last = times.next();
    Ok(last.map(|time| End { time, lines: 1 + times.take_while(|before| *before == time).count() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use balsa_runtime::StreamKind;

    use super::*;

    fn line(second: i64, text: &str) -> LogLine {
        let time = Timestamp::from_second(second).unwrap();
        LogLine { stream: StreamKind::Stdout, time, bytes: text.to_owned().into(), partial: false }
    }

    #[test]
    fn files_rotate_and_old_ones_go() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("c/0.log");
        let mut file = LogFile::open(&path, 100).unwrap();
        for n in 0..20 {
            file.write(&line(n, "some text")).unwrap();
        }
        file.flush().unwrap();
        let count = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(count, 1 + OLDER as usize);
        assert!(fs::metadata(&path).unwrap().len() <= 100);
    }

    #[test]
    fn a_collection_goes_on_where_the_last_one_ended() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        let mut file = LogFile::open(&path, MAX_SIZE).unwrap();
        assert_eq!(file.end, None);
        for text in ["of", "one", "time"] {
            file.write(&line(7, text)).unwrap();
        }
        let end = Some(End { time: Timestamp::from_second(7).unwrap(), lines: 3 });
        assert_eq!(file.end, end);
        file.flush().unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a li").unwrap();
        let again = LogFile::open(&path, MAX_SIZE).unwrap();
        assert_eq!(again.end, end);
        assert!(fs::read_to_string(&path).unwrap().ends_with("half a li\n"));
    }

    #[test]
    fn lines_that_are_there_are_known_once() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut known = Some(End { time: at(7), lines: 2 });
        let told = [6, 7, 7, 7, 6].map(|second| is_known(&mut known, at(second)));
        assert_eq!(told, [true, true, true, false, false]);
    }
}
