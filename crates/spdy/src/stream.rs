//! A stream: two directions that end apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use crate::connection::{Outgoing, Shared};
use crate::error::{Error, status};
use crate::flow::Window;
use crate::frame::Frame;
use crate::headers::Headers;

/// The longest data frame that is sent: small enough that streams take turns.
const MAX_SENT: usize = 16 << 10;
/// The peer is told that it may send more when so much has been read.
const UPDATE_AFTER: u32 = 16 << 10;
/// Bytes of a stream that wait to be read. More than a window: a peer that obeys windows never has to wait
/// for one stream with all the others.
const BUFFERED: usize = 256 << 10;

/// What the connection and the two halves of a stream share.
pub(crate) struct State {
    pub(crate) id: u32,
    pub(crate) window: Window,
    /// The peer has said its last word.
    pub(crate) remote_done: AtomicBool,
    /// We have.
    pub(crate) local_done: AtomicBool,
    /// Bytes that may still be buffered; closed when nobody reads them.
    pub(crate) room: Semaphore,
    reset: AtomicU32,
}

impl State {
    pub(crate) fn new(id: u32, obedient: bool) -> Arc<Self> {
        Arc::new(Self {
            id,
            window: Window::new(obedient),
            room: Semaphore::new(BUFFERED),
            remote_done: AtomicBool::new(false),
            local_done: AtomicBool::new(false),
            reset: AtomicU32::new(0),
        })
    }

    /// Ends both directions for a reason.
    pub(crate) fn reset(&self, status: u32) {
        self.reset.store(status.max(1), Ordering::SeqCst);
        self.window.end();
    }

    /// Why it ended before its time.
    fn error(&self) -> Error {
        match self.reset.load(Ordering::SeqCst) {
            0 => Error::Closed,
            status => Error::Reset(status),
        }
    }
}

/// A stream that the peer wants and that is not yet taken. Dropped, it is refused.
pub struct Incoming {
    headers: Headers,
    stream: Option<Stream>,
}

impl Incoming {
    pub(crate) fn new(headers: Headers, stream: Stream) -> Self {
        Self { headers, stream: Some(stream) }
    }

    /// What the peer says that it is for.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Takes it.
    ///
    /// # Errors
    /// When it has gone already.
    pub async fn accept(mut self) -> Result<Stream, Error> {
        let Some(stream) = self.stream.take() else { return Err(Error::Closed) };
        // In the queue of the data, so that nothing overtakes it: peers drop data before the reply.
        let reply = Frame::SynReply { id: stream.reader.state.id, fin: false, headers: Headers::default() };
        stream.writer.shared.queue(Outgoing::Frame(reply)).await?;
        Ok(stream)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            stream.writer.reset(status::REFUSED_STREAM);
        }
    }
}

/// A stream in both directions.
pub struct Stream {
    reader: StreamReader,
    writer: StreamWriter,
}

impl Stream {
    pub(crate) fn new(
        state: Arc<State>,
        pieces: mpsc::UnboundedReceiver<Bytes>,
        shared: Arc<Shared>,
    ) -> Self {
        let reader = StreamReader { state: state.clone(), pieces, shared: shared.clone(), unsaid: 0 };
        let writer = StreamWriter { state, shared, finished: false };
        Self { reader, writer }
    }

    /// Its two directions.
    pub fn split(self) -> (StreamReader, StreamWriter) {
        (self.reader, self.writer)
    }
}

/// What the peer sends on a stream. Dropped, the rest is thrown away.
pub struct StreamReader {
    state: Arc<State>,
    pieces: mpsc::UnboundedReceiver<Bytes>,
    shared: Arc<Shared>,
    /// Read, and the peer not yet told so.
    unsaid: u32,
}

impl StreamReader {
    /// The next bytes; `None` when the peer has said its last word. Nothing is lost when it is cancelled.
    ///
    /// # Errors
    /// When the stream was reset or the connection has ended.
    pub async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        match self.pieces.recv().await {
            Some(piece) => {
                self.state.room.add_permits(piece.len());
                self.shared.room.add_permits(piece.len());
                self.unsaid = self.unsaid.saturating_add(piece.len() as u32);
                if self.unsaid >= UPDATE_AFTER && self.shared.read(self.state.id, self.unsaid) {
                    self.unsaid = 0;
                }
                Ok(Some(piece))
            }
            None if self.state.remote_done.load(Ordering::SeqCst) => Ok(None),
            None => Err(self.state.error()),
        }
    }
}

impl Drop for StreamReader {
    fn drop(&mut self) {
        // What nobody will read takes no more room; what comes later finds the channel closed.
        self.pieces.close();
        self.state.room.close();
        while let Ok(piece) = self.pieces.try_recv() {
            self.shared.room.add_permits(piece.len());
        }
    }
}

/// What is sent to the peer on a stream. Dropped before [`finish`](Self::finish), the stream is reset.
pub struct StreamWriter {
    state: Arc<State>,
    shared: Arc<Shared>,
    finished: bool,
}

impl StreamWriter {
    /// Sends bytes, waiting until there is room for them.
    ///
    /// # Errors
    /// When the stream was reset or the connection has ended.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let wanted = bytes.len().min(MAX_SENT);
            let taken = self.state.window.take(wanted).await.ok_or_else(|| self.state.error())?;
            let allowed = self.shared.window.take(taken).await.ok_or(Error::Closed)?;
            self.state.window.give_back(taken - allowed);
            let frame = Frame::Data { id: self.state.id, fin: false, bytes: bytes.split_to(allowed) };
            tokio::select! {
                queued = self.shared.queue(Outgoing::Frame(frame)) => queued?,
                () = self.state.window.gone() => return Err(self.state.error()),
            }
        }
        Ok(())
    }

    /// Says that no more will come. The other direction goes on.
    ///
    /// # Errors
    /// When the stream was reset or the connection has ended.
    pub async fn finish(mut self) -> Result<(), Error> {
        if self.state.window.is_gone() {
            self.finished = true;
            return Err(self.state.error());
        }
        let frame = Frame::Data { id: self.state.id, fin: true, bytes: Bytes::new() };
        self.shared.queue(Outgoing::Frame(frame)).await?;
        self.finished = true;
        self.shared.local_done(&self.state);
        Ok(())
    }

    /// Ends both directions at once.
    pub fn reset(&mut self, status: u32) {
        if !std::mem::replace(&mut self.finished, true) {
            self.shared.reset(&self.state, status);
        }
    }

    /// Resolves when nobody will read what is written: the stream was reset or the connection has ended.
    pub async fn gone(&self) {
        self.state.window.gone().await;
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        self.reset(status::CANCEL);
    }
}
