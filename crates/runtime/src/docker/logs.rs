//! A container's output as Docker kept it.

use bollard::container::LogOutput;
use bollard::query_parameters as query;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;

use super::errors::failed;
use super::{DockerRuntime, convert};
use crate::{ContainerId, Error, LogLine, LogOptions, LogStream, Result, Runtime as _, StreamKind};

impl DockerRuntime {
    pub(super) async fn container_logs(&self, id: &ContainerId, options: &LogOptions) -> Result<LogStream> {
        // Asked first, so that a missing container is an error now and not in the stream.
        self.inspect(id).await?;
        let seconds = |at: Timestamp| i32::try_from(at.as_second()).unwrap_or(i32::MAX);
        let mut asked = query::LogsOptionsBuilder::default()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(options.follow)
            .tail(&options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()));
        // Docker is asked in whole seconds; the exact limits are kept below.
        if let Some(since) = options.since {
            asked = asked.since(seconds(since));
        }
        if let Some(until) = options.until {
            asked = asked.until(seconds(until).saturating_add(1));
        }
        let (since, until) = (options.since, options.until);
        let pieces = self.patient.logs(id.as_str(), Some(asked.build())).map_err(failed);
        let lines = pieces.map(|piece| piece.and_then(line));
        Ok(lines
            .try_filter(move |line| {
                let wanted = since.is_none_or(|since| line.time >= since)
                    && until.is_none_or(|until| line.time <= until);
                std::future::ready(wanted)
            })
            .boxed())
    }
}

/// Takes the time off the front of a piece and the line end off its back.
fn line(piece: LogOutput) -> Result<LogLine> {
    let stream = match &piece {
        LogOutput::StdErr { .. } => StreamKind::Stderr,
        _ => StreamKind::Stdout,
    };
    let mut bytes: Bytes = piece.into_bytes();
    let wrong = || Error::Other { message: "Docker sent a log line without its time".to_owned() };
    let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
    let stamp = bytes.split_to(space + 1);
    let stamp = std::str::from_utf8(&stamp[..space]).map_err(|_| wrong())?;
    let time = convert::time(stamp).ok_or_else(wrong)?;
    let partial = bytes.last() != Some(&b'\n');
    if !partial {
        bytes.truncate(bytes.len() - 1);
    }
    Ok(LogLine { stream, time, bytes, partial })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_in_front() {
        let message = Bytes::from_static(b"2026-11-22T17:00:00.5Z hello there\n");
        let whole = line(LogOutput::StdErr { message }).unwrap();
        assert_eq!(
            (whole.stream, &whole.bytes[..], whole.partial),
            (StreamKind::Stderr, &b"hello there"[..], false)
        );
        let message = Bytes::from_static(b"2026-11-22T17:00:00.5Z ");
        let empty = line(LogOutput::StdOut { message }).unwrap();
        assert!(empty.bytes.is_empty() && empty.partial);
        assert!(line(LogOutput::StdOut { message: Bytes::from_static(b"garbage") }).is_err());
    }
}
