//! A log file that is written and rotated, and that knows which lines it has.
//!
//! Docker tells lines again: those of the second it is asked to go on from, and, when its own file
//! rotates under a follower, thousands of them (seen with 20.10). Within one stream it stamps lines in
//! order, so a line that is older than the last one is either told again, and then it is in the files, or
//! the machine's clock was set back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use balsa_runtime::{LogLine, StreamKind};
use jiff::{SignedDuration, Timestamp};

use super::format;

/// Bytes of one file.
pub(super) const MAX_SIZE: u64 = 10 << 20;
/// Older files kept beside the newest.
pub(super) const OLDER_FILES: u32 = 4;
/// So much of a file's end is read to find its last lines.
const TAIL: u64 = 64 << 10;

/// The end of one stream in a file: the last time, and how many lines have it (the pieces of a long line
/// share theirs).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    time: Timestamp,
    lines: usize,
}

/// What is known of one stream.
#[derive(Debug, Default)]
struct Place {
    end: Option<End>,
    /// Lines are being told again, with so many to come that have the last time.
    again: Option<usize>,
}

/// A log file that is written and rotated.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    size: u64,
    max: u64,
    stdout: Place,
    stderr: Place,
}

impl LogFile {
    /// Opens or makes the file; one of `max` bytes is followed by a new one.
    pub(super) fn open(path: &Path, max: u64) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let mut tail = tail(&mut file)?;
        if tail.is_empty()
            && let Ok(mut older) = File::open(older(path, 1))
        {
            tail = self::tail(&mut older)?;
        }
        let size = file.metadata()?.len();
        let place = |stream| Place { end: end_of(&tail, stream), again: None };
        let (stdout, stderr) = (place(StreamKind::Stdout), place(StreamKind::Stderr));
        let mut opened = Self { path: path.to_owned(), file, buffer: Vec::new(), size, max, stdout, stderr };
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

    /// From when on lines are to be told that go on where the file ends; `None` for all of them. Some that
    /// it has will come again: the streams are stamped beside each other.
    pub(super) fn resume(&mut self) -> Option<Timestamp> {
        for place in [&mut self.stdout, &mut self.stderr] {
            place.again = place.end.map(|end| end.lines);
        }
        let last = [&self.stdout, &self.stderr].into_iter().filter_map(|place| Some(place.end?.time)).max();
        last.map(|time| time.saturating_sub(SignedDuration::from_secs(1)).unwrap_or(time))
    }

    /// Whether the line is one that was written before.
    pub(super) fn has(&mut self, line: &LogLine) -> io::Result<bool> {
        let place = self.place(line.stream);
        let Some(end) = place.end else { return Ok(false) };
        if line.time < end.time {
            let again = place.again.is_some() || self.holds(line)?;
            self.place(line.stream).again = again.then_some(end.lines);
            return Ok(again);
        }
        if line.time == end.time
            && let Some(rest @ 1..) = &mut place.again
        {
            *rest -= 1;
            return Ok(true);
        }
        place.again = None;
        Ok(false)
    }

    /// Looks through the files: a step of the clock, or of Docker's, is rare.
    fn holds(&mut self, line: &LogLine) -> io::Result<bool> {
        self.flush()?;
        let files = (1..=OLDER_FILES).map(|n| older(&self.path, n));
        for path in std::iter::once(self.path.clone()).chain(files) {
            let Ok(file) = File::open(path) else { continue };
            for known in BufReader::new(file).split(b'\n') {
                let known = known?;
                if format::parse(&known)
                    .is_some_and(|known| (known.time, known.stream) == (line.time, line.stream))
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn place(&mut self, stream: StreamKind) -> &mut Place {
        match stream {
            StreamKind::Stdout => &mut self.stdout,
            StreamKind::Stderr => &mut self.stderr,
        }
    }

    /// Adds a line; it is in the file after the next [`Self::flush`].
    pub(super) fn write(&mut self, line: &LogLine) -> io::Result<()> {
        let bytes = format::write(line);
        if self.size + bytes.len() as u64 > self.max && self.size > 0 {
            self.flush()?;
            self.rotate()?;
        }
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        let place = self.place(line.stream);
        let before = place.end.filter(|end| end.time == line.time).map_or(0, |end| end.lines);
        place.end = Some(End { time: line.time, lines: before + 1 });
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for n in (1..OLDER_FILES).rev() {
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

/// The time and stream of the last lines, oldest first.
fn tail(file: &mut File) -> io::Result<Vec<(Timestamp, StreamKind)>> {
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n').filter_map(format::parse);
    Ok(lines.map(|line| (line.time, line.stream)).collect())
}

/// The end of a stream; of one that has no line there, what is older than all of them is known.
fn end_of(tail: &[(Timestamp, StreamKind)], stream: StreamKind) -> Option<End> {
    let mut times = tail.iter().rev().filter(|line| line.1 == stream).map(|line| line.0);
    match times.next() {
        Some(time) => Some(End { time, lines: 1 + times.take_while(|before| *before == time).count() }),
        None => tail.first().map(|line| End { time: line.0, lines: 0 }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(second: i64, text: &str) -> LogLine {
        let time = Timestamp::from_second(second).unwrap();
        LogLine { stream: StreamKind::Stdout, time, bytes: text.to_owned().into(), partial: false }
    }

    /// Writes those lines that the file has not; true for each that it had.
    fn told(file: &mut LogFile, seconds: &[i64]) -> Vec<bool> {
        let tell = |second: &i64| {
            let line = line(*second, "told");
            let had = file.has(&line).unwrap();
            if !had {
                file.write(&line).unwrap();
            }
            had
        };
        seconds.iter().map(tell).collect()
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
        assert_eq!(count, 1 + OLDER_FILES as usize);
        assert!(fs::metadata(&path).unwrap().len() <= 100);
    }

    #[test]
    fn a_collection_goes_on_where_the_last_one_ended() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("0.log");
        let mut file = LogFile::open(&path, MAX_SIZE).unwrap();
        assert_eq!(file.resume(), None);
        assert_eq!(told(&mut file, &[5, 7, 7, 7]), [false; 4], "pieces of one line have one time");
        file.flush().unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half a li").unwrap();
        let mut again = LogFile::open(&path, MAX_SIZE).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("half a li\n"));
        assert_eq!(again.resume(), Timestamp::from_second(6).ok());
        assert_eq!(told(&mut again, &[7, 7, 7, 7, 8]), [true, true, true, false, false]);
        let complaint = LogLine { stream: StreamKind::Stderr, ..line(5, "a moment later") };
        assert!(!again.has(&complaint).unwrap(), "each stream has its own order");
    }

    #[test]
    fn what_is_told_again_is_not_written_again() {
        let root = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(&root.path().join("0.log"), 100).unwrap();
        assert_eq!(told(&mut file, &[1, 2, 3, 4, 4]), [false; 5]);
        assert_eq!(told(&mut file, &[2, 3, 4, 4, 4, 5]), [true, true, true, true, false, false]);
    }

    #[test]
    fn a_clock_that_was_set_back_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut file = LogFile::open(&root.path().join("0.log"), MAX_SIZE).unwrap();
        assert_eq!(told(&mut file, &[100, 101, 40, 41, 42]), [false; 5]);
    }
}
