//! From the runtime to the file. The file itself says how far an earlier collection came.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use balsa_runtime::{ContainerId, LogLine, LogOptions, Runtime};
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

/// Copies until the container's output ends.
pub(super) async fn run(
    runtime: &dyn Runtime,
    id: &ContainerId,
    path: &Path,
    progress: &watch::Sender<u64>,
) -> io::Result<()> {
    let mut file = LogFile::open(path, MAX_SIZE)?;
    let after = file.last;
    let options = LogOptions { follow: true, since: after, ..LogOptions::default() };
    let stream = match runtime.logs(id, &options).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(container = %id, %error, "no output to collect");
            return Ok(());
        }
    };
    let mut batches = stream.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        for line in batch {
            let Ok(line) = line else { return Ok(()) };
            // The runtime's `since` includes the line that was the last.
            if after.is_none_or(|after| line.time > after) {
                file.write(&line)?;
            }
        }
        file.flush()?;
        progress.send_modify(|count| *count += 1);
    }
    Ok(())
}

/// A log file that is written and rotated.
struct LogFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    size: u64,
    max: u64,
    /// The time of the last line that is in it.
    last: Option<Timestamp>,
}

impl LogFile {
    fn open(path: &Path, max: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut last = last_time(&mut file)?;
        if last.is_none() {
            let older = File::open(older(path, 1));
            last = older.ok().map(|mut older| last_time(&mut older)).transpose()?.flatten();
        }
        let size = file.metadata()?.len();
        let mut opened = Self { path: path.to_owned(), file, buffer: Vec::new(), size, max, last };
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

fn last_time(file: &mut File) -> io::Result<Option<Timestamp>> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end.split(|byte| *byte == b'\n').rev().find_map(|line| format::parse(line).map(|line| line.time)))
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
        assert_eq!(file.last, None);
        file.write(&line(7, "x")).unwrap();
        file.flush().unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a li").unwrap();
        let again = LogFile::open(&path, MAX_SIZE).unwrap();
        assert_eq!(again.last, Timestamp::from_second(7).ok());
        assert!(fs::read_to_string(&path).unwrap().ends_with("half a li\n"));
    }
}
