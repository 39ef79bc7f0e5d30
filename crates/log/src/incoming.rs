//! The snapshot that this server is being sent: its pieces are put one behind the other until it is whole.
//!
//! A piece that was taken but whose answer was lost comes again; it is taken once. Whoever sends goes on where it
//! was after a broken connection, and begins anew when this server knows nothing of the transfer any more.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use tonic::Status;

use crate::codec::pb::InstallSnapshotRequest;
use crate::metrics::SnapshotWork;
use crate::snapshot::SnapshotFile;
use crate::types::{SnapshotMeta, Vote};

/// One transfer at a time: the leader's.
#[derive(Default)]
pub(crate) struct Incoming {
    receiving: Option<Receiving>,
    /// The last one that was installed, and what its sender was told.
    installed: Option<(String, Vote)>,
}

struct Receiving {
    transfer: String,
    /// That of the leader that sends it.
    vote: Vote,
    spooled: SnapshotFile,
    file: File,
    received: u64,
    begun: Instant,
}

impl Incoming {
    /// Puts a piece where it belongs. The first of another transfer replaces what there was, unless an earlier leader
    /// sends it.
    pub(crate) fn take(
        &mut self,
        directory: &Path,
        vote: Vote,
        piece: &InstallSnapshotRequest,
    ) -> Result<(), Status> {
        if piece.offset == 0 && self.of(piece).is_err() {
            if self.receiving.as_ref().is_some_and(|receiving| receiving.vote > vote) {
                return Err(Status::failed_precondition("a later leader sends one already"));
            }
            let (spooled, file) = SnapshotFile::create(directory).map_err(|error| not_kept(&error))?;
            let (transfer, begun) = (piece.transfer.clone(), Instant::now());
            self.receiving = Some(Receiving { transfer, vote, spooled, file, received: 0, begun });
        }
        let receiving = self.of(piece)?;
        if piece.offset + piece.chunk.len() as u64 == receiving.received {
            return Ok(());
        }
        if piece.offset != receiving.received {
            return Err(unknown(piece));
        }
        // A page-cache write of a megabyte; the sync is on a blocking thread.
        let kept = receiving.file.write_all_at(&piece.chunk, piece.offset);
        kept.map_err(|error| not_kept(&error))?;
        receiving.received += piece.chunk.len() as u64;
        Ok(())
    }

    /// All pieces are there: the whole, checked and synced.
    pub(crate) async fn finish(
        &mut self,
        end: &InstallSnapshotRequest,
    ) -> Result<(SnapshotMeta, SnapshotFile), Status> {
        if self.of(end)?.received != end.offset {
            return Err(unknown(end));
        }
        let Some(Receiving { spooled, file, begun, .. }) = self.receiving.take() else {
            return Err(unknown(end));
        };
        let finished = balsa_rt::spawn_blocking(move || spooled.finish(&file)).await;
        let (whole, meta) = finished
            .map_err(|error| Status::aborted(error.to_string()))?
            .map_err(|error| Status::data_loss(format!("the snapshot that arrived: {error}")))?;
        SnapshotWork::Receive.done(begun);
        Ok((meta, whole))
    }

    /// What the sender of a transfer is told that was installed before.
    pub(crate) fn installed(&self, transfer: &str) -> Option<Vote> {
        self.installed.as_ref().filter(|(known, _)| known == transfer).map(|(_, vote)| *vote)
    }

    /// A transfer was installed.
    pub(crate) fn remember(&mut self, transfer: String, vote: Vote) {
        self.installed = Some((transfer, vote));
    }

    fn of(&mut self, piece: &InstallSnapshotRequest) -> Result<&mut Receiving, Status> {
        let receiving = self.receiving.as_mut().filter(|receiving| receiving.transfer == piece.transfer);
        receiving.ok_or_else(|| unknown(piece))
    }
}

/// It is no use to send it again at once.
fn not_kept(error: &std::io::Error) -> Status {
    Status::resource_exhausted(format!("the snapshot cannot be kept: {error}"))
}

fn unknown(piece: &InstallSnapshotRequest) -> Status {
    Status::aborted(format!("nothing is known of byte {} of transfer {}", piece.offset, piece.transfer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn piece(transfer: &str, offset: u64, chunk: &'static [u8]) -> InstallSnapshotRequest {
        let transfer = transfer.to_owned();
        InstallSnapshotRequest { transfer, offset, chunk: chunk.into(), ..InstallSnapshotRequest::default() }
    }

    fn content(incoming: &Incoming, dir: &Path) -> Vec<u8> {
        assert!(incoming.receiving.is_some());
        let files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "what was replaced is gone: {files:?}");
        std::fs::read(&files[0]).unwrap()
    }

    #[test]
    fn pieces_are_taken_once_and_in_order() {
        let (dir, mut incoming) = (tempfile::tempdir().unwrap(), Incoming::default());
        let take = |incoming: &mut Incoming, term, piece: &_| {
            incoming.take(dir.path(), Vote::new_committed(term, term), piece)
        };
        assert!(take(&mut incoming, 1, &piece("a", 3, b"def")).is_err(), "its beginning is not here");
        take(&mut incoming, 1, &piece("a", 0, b"abc")).unwrap();
        take(&mut incoming, 1, &piece("a", 0, b"abc")).unwrap();
        take(&mut incoming, 1, &piece("a", 3, b"def")).unwrap();
        take(&mut incoming, 1, &piece("a", 3, b"def")).unwrap();
        assert!(take(&mut incoming, 1, &piece("a", 9, b"jkl")).is_err(), "there is a hole");
        assert!(take(&mut incoming, 1, &piece("b", 6, b"ghi")).is_err(), "of another transfer");
        assert_eq!(content(&incoming, dir.path()), b"abcdef");
        take(&mut incoming, 1, &piece("b", 0, b"xyz")).unwrap();
        assert_eq!(content(&incoming, dir.path()), b"xyz");
        take(&mut incoming, 2, &piece("c", 0, b"new")).unwrap();
        let deposed = take(&mut incoming, 1, &piece("d", 0, b"old"));
        assert_eq!(deposed.unwrap_err().code(), tonic::Code::FailedPrecondition);
        assert_eq!(content(&incoming, dir.path()), b"new");
    }

    #[tokio::test]
    async fn what_is_no_snapshot_is_refused_in_the_end() {
        let (dir, mut incoming) = (tempfile::tempdir().unwrap(), Incoming::default());
        let take = |incoming: &mut Incoming, term, piece: &_| {
            incoming.take(dir.path(), Vote::new_committed(term, term), piece)
        };
        take(&mut incoming, 1, &piece("a", 0, b"abc")).unwrap();
        let short = incoming.finish(&piece("a", 2, b"")).await.err().unwrap();
        assert_eq!(short.code(), tonic::Code::Aborted);
        let damaged = incoming.finish(&piece("a", 3, b"")).await.err().unwrap();
        assert_eq!(damaged.code(), tonic::Code::DataLoss);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
