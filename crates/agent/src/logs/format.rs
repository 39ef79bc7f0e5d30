//! A line of a log file: `2026-01-02T03:04:05.000000006Z stdout F text`. Pure.
//!
//! The form that Kubernetes' own nodes write, so that log shippers read it. `P` instead of `F` says
//! that the line goes on in the next one of the same stream.

use balsa_runtime::{LogLine, StreamKind};
use jiff::Timestamp;

/// The text of one line, with its end.
pub(super) fn write(line: &LogLine) -> Vec<u8> {
    let tag = if line.partial { 'P' } else { 'F' };
    let mut out = format!("{:.9} {} {tag} ", line.time, line.stream.as_str()).into_bytes();
    out.extend(line.bytes.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
    out.push(b'\n');
    out
}

/// A line, read back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The time as it is written.
    pub stamp: &'a [u8],
    /// The time.
    pub time: Timestamp,
    /// Written to which stream.
    pub stream: StreamKind,
    /// It goes on in the next line.
    pub partial: bool,
    /// The text.
    pub text: &'a [u8],
}

/// Reads a line without its end; `None` when it is none, as the last one of a crash may be.
pub(super) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let stamp = parts.next()?;
    let stream = match parts.next()? {
        b"stdout" => StreamKind::Stdout,
        b"stderr" => StreamKind::Stderr,
        _ => return None,
    };
    let partial = match parts.next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    let text = parts.next()?;
    let time = std::str::from_utf8(stamp).ok()?.parse().ok()?;
    Some(Line { stamp, time, stream, partial, text })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let time: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        let line = LogLine { stream: StreamKind::Stderr, time, bytes: "a b  c".into(), partial: true };
        let text = write(&line);
        assert_eq!(text, b"2026-01-02T03:04:05.000000006Z stderr P a b  c\n");
        let read = parse(&text[..text.len() - 1]).unwrap();
        assert_eq!(
            (read.time, read.stream, read.partial, read.text),
            (time, StreamKind::Stderr, true, &b"a b  c"[..])
        );
        let empty = write(&LogLine { bytes: "".into(), ..line });
        assert_eq!(parse(&empty[..empty.len() - 1]).unwrap().text, b"");
    }

    #[test]
    fn what_is_no_line_is_not_read() {
        for text in
            ["", "x", "2026-01-02T03:04:05Z stdout", "2026-01-02T03:04:05Z out F x", "nine stdout F x"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
