//! From the runtime to the file. The file itself says how far an earlier collection came.

use std::io;
use std::path::Path;
use std::time::Duration;

use balsa_runtime::{ContainerId, Error, LogOptions, Runtime};
use futures::StreamExt as _;
use tokio::sync::watch;

use super::file::{LogFile, MAX_SIZE};

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
    let options = LogOptions { follow: true, since: file.resume(), ..LogOptions::default() };
    let stream = match runtime.logs(id, &options).await {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    let mut batches = stream.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut failed = None;
        for line in batch {
            match line {
                Ok(line) if file.has(&line)? => {}
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
