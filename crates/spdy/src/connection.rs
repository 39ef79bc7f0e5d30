//! A connection: one task that reads and one that writes, and the streams between them.
//!
//! The writer sends what is queued in the order of the queue, and resets and answers to pings before
//! that. The reader waits where a stream's buffer is full. Whichever of the two ends first ends the
//! connection, and with it all its streams.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::error::{Error, status};
use crate::flow::{WINDOW, Window};
use crate::frame::{Decoder, Encoder, Frame, INITIAL_WINDOW_SIZE};
use crate::headers::Headers;
use crate::stream::{Incoming, State, Stream};

/// Frames that wait to be written; a data frame has at most 16 KiB.
const QUEUE: usize = 16;
/// Bytes of all streams together that wait to be read.
const BUFFERED: usize = 4 << 20;
/// Streams that wait to be taken.
const ARRIVALS: usize = 16;
/// How long a peer that was told goodbye may take to go.
const LINGER: Duration = Duration::from_secs(10);
/// Bytes read from the connection at once.
const READ: usize = 32 << 10;

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It begins streams with odd numbers, and obeys windows from the start: it speaks with servers of
    /// this crate.
    Client,
    /// It begins none, here.
    Server,
}

/// What a peer may have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at a time; more are refused.
    pub streams: usize,
}

/// Something to be written.
pub(crate) enum Outgoing {
    Frame(Frame),
    /// The last: goodbye.
    Close,
}

struct Entry {
    state: Arc<State>,
    /// `None` when the peer has said its last word.
    pieces: Option<mpsc::UnboundedSender<Bytes>>,
}

/// What the connection, its tasks and its streams share.
pub(crate) struct Shared {
    role: Role,
    limits: Limits,
    streams: Mutex<Streams>,
    queue: mpsc::Sender<Outgoing>,
    urgent: mpsc::Sender<Frame>,
    /// The peer takes no answers: the connection is to end.
    flooded: Notify,
    goodbye: AtomicBool,
    /// The connection's own window.
    pub(crate) window: Window,
    /// Bytes that may still be buffered.
    pub(crate) room: Semaphore,
}

#[derive(Default)]
struct Streams {
    table: HashMap<u32, Entry>,
    /// The last stream that was begun by either side.
    last: u32,
    ended: bool,
    /// Whether windows are obeyed before the peer has shown that it knows about them.
    obedient: bool,
}

/// A handle of a connection. Dropped, the connection goes on as long as it has streams.
pub struct Connection {
    shared: Arc<Shared>,
    arrivals: mpsc::Receiver<Incoming>,
}

/// Speaks SPDY/3.1 over `io`: the handle, and the future that does the work until the connection ends.
pub fn connection<IO>(
    io: IO,
    role: Role,
    limits: Limits,
) -> (Connection, impl Future<Output = Result<(), Error>> + Send)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (queue, queued) = mpsc::channel(QUEUE);
    // Each stream is reset once at most; pings are few.
    let (urgent, urgently) = mpsc::channel(limits.streams.saturating_mul(2).saturating_add(64));
    let (arrive, arrivals) = mpsc::channel(ARRIVALS);
    let shared = Arc::new(Shared {
        role,
        limits,
        streams: Mutex::new(Streams { obedient: role == Role::Client, ..Streams::default() }),
        queue,
        urgent,
        flooded: Notify::new(),
        goodbye: AtomicBool::new(false),
        window: Window::new(role == Role::Client),
        room: Semaphore::new(BUFFERED),
    });
    let work = run(io, shared.clone(), arrive, queued, urgently);
    (Connection { shared, arrivals }, work)
}

impl Connection {
    /// The next stream that the peer wants; `None` when the connection has ended. Nothing is lost when
    /// it is cancelled.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.arrivals.recv().await
    }

    /// Begins a stream, as a client.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn open(&mut self, headers: Headers) -> Result<Stream, Error> {
        let (state, pieces) = {
            let mut streams = self.shared.lock();
            if streams.ended {
                return Err(Error::Closed);
            }
            let id = if streams.last == 0 { 1 } else { streams.last + 2 };
            streams.last = id;
            streams.begin(id)
        };
        let id = state.id;
        let stream = Stream::new(state, pieces, self.shared.clone());
        // `&mut self`: streams reach the wire in the order of their numbers.
        let syn = Frame::SynStream { id, priority: 0, fin: false, unidirectional: false, headers };
        self.shared.queue(Outgoing::Frame(syn)).await?;
        Ok(stream)
    }

    /// Says goodbye after all that is queued, and lets the peer go first: what it has not read yet would
    /// be lost otherwise. The work ends when it has gone, or after ten seconds.
    pub async fn close(self) {
        let _ = self.shared.queue(Outgoing::Close).await;
    }
}

impl Streams {
    fn begin(&mut self, id: u32) -> (Arc<State>, mpsc::UnboundedReceiver<Bytes>) {
        let state = State::new(id, self.obedient);
        // Bounded by `State::room`, in bytes.
        let (sender, pieces) = mpsc::unbounded_channel();
        self.table.insert(id, Entry { state: state.clone(), pieces: Some(sender) });
        (state, pieces)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues something, waiting until there is room.
    pub(crate) async fn queue(&self, outgoing: Outgoing) -> Result<(), Error> {
        self.queue.send(outgoing).await.map_err(|_| Error::Closed)
    }

    /// Sends before all that is queued. A peer that does not take it is cut off.
    fn urgent(&self, frame: Frame) {
        if self.urgent.try_send(frame).is_err() {
            self.flooded.notify_one();
        }
    }

    /// Tells the peer that `count` bytes were read; false when that has to wait.
    pub(crate) fn read(&self, id: u32, count: u32) -> bool {
        let Ok(permits) = self.urgent.try_reserve_many(2) else { return false };
        let frames = [id, 0].map(|id| Frame::WindowUpdate { id, delta: count });
        permits.zip(frames).for_each(|(permit, frame)| permit.send(frame));
        true
    }

    /// We have said our last word on a stream.
    pub(crate) fn local_done(&self, state: &State) {
        state.local_done.store(true, Ordering::SeqCst);
        if state.remote_done.load(Ordering::SeqCst) {
            self.lock().table.remove(&state.id);
        }
    }

    /// Ends a stream, and tells the peer.
    pub(crate) fn reset(&self, state: &State, status: u32) {
        if self.lock().table.remove(&state.id).is_some() {
            state.reset(status);
            self.urgent(Frame::Reset { id: state.id, status });
        }
    }

    /// The connection has ended: nobody waits any longer.
    fn end(&self) {
        let mut streams = self.lock();
        streams.ended = true;
        for entry in streams.table.drain() {
            entry.1.state.window.end();
        }
        self.window.end();
    }
}

/// Ends what hangs on the connection however its future ends, even when it is dropped.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn run<IO: AsyncRead + AsyncWrite + Unpin>(
    io: IO,
    shared: Arc<Shared>,
    arrive: mpsc::Sender<Incoming>,
    queued: mpsc::Receiver<Outgoing>,
    urgently: mpsc::Receiver<Frame>,
) -> Result<(), Error> {
    let _end = EndOnDrop(shared.clone());
    let (reading, writing) = tokio::io::split(io);
    let reader = Reader { shared: shared.clone(), arrive, decoder: Decoder::new() };
    let reading = reader.run(reading);
    tokio::pin!(reading);
    let wrote = tokio::select! {
        read = &mut reading => return read,
        wrote = write(writing, &shared, queued, urgently) => wrote,
        () = shared.flooded.notified() => return Err(Error::Flooded),
    };
    let mut writing = wrote?;
    // We have said goodbye. The peer still reads; when it has read all it goes.
    let _ = tokio::time::timeout(LINGER, reading).await;
    let _ = writing.shutdown().await;
    Ok(())
}

/// Writes until goodbye is said.
async fn write<IO: AsyncRead + AsyncWrite>(
    mut io: WriteHalf<IO>,
    shared: &Shared,
    mut queued: mpsc::Receiver<Outgoing>,
    mut urgently: mpsc::Receiver<Frame>,
) -> Result<WriteHalf<IO>, Error> {
    let mut encoder = Encoder::new();
    let mut out = BytesMut::new();
    let mut closing = false;
    while !closing {
        // Neither channel closes: `shared` holds their senders.
        tokio::select! {
            biased;
            Some(frame) = urgently.recv() => encoder.encode(&frame, &mut out)?,
            Some(outgoing) = queued.recv() => closing = append(&mut encoder, outgoing, shared, &mut out)?,
        }
        // Whatever else is there goes along, up to the size of a read on the other side.
        while !closing && out.len() < READ {
            if let Ok(frame) = urgently.try_recv() {
                encoder.encode(&frame, &mut out)?;
            } else if let Ok(outgoing) = queued.try_recv() {
                closing = append(&mut encoder, outgoing, shared, &mut out)?;
            } else {
                break;
            }
        }
        io.write_all(&out).await?;
        out.clear();
        io.flush().await?;
    }
    Ok(io)
}

fn append(
    encoder: &mut Encoder,
    outgoing: Outgoing,
    shared: &Shared,
    out: &mut BytesMut,
) -> Result<bool, Error> {
    let (frame, last) = match outgoing {
        Outgoing::Frame(frame) => (frame, false),
        Outgoing::Close => {
            shared.goodbye.store(true, Ordering::SeqCst);
            (Frame::GoAway { last: shared.lock().last, status: 0 }, true)
        }
    };
    encoder.encode(&frame, out)?;
    Ok(last)
}

struct Reader {
    shared: Arc<Shared>,
    arrive: mpsc::Sender<Incoming>,
    decoder: Decoder,
}

impl Reader {
    /// Reads until the peer goes.
    async fn run<IO: AsyncRead>(mut self, mut io: ReadHalf<IO>) -> Result<(), Error> {
        let mut bytes = BytesMut::with_capacity(READ);
        loop {
            while let Some(frame) = self.decoder.decode(&mut bytes)? {
                self.on_frame(frame).await?;
            }
            bytes.reserve(READ);
            if io.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn on_frame(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::SynStream { id, fin, unidirectional, headers, .. } => {
                self.on_syn(id, fin, unidirectional, headers).await;
            }
            Frame::SynReply { id, fin: true, .. } | Frame::Headers { id, fin: true, .. } => self.on_fin(id),
            Frame::Data { id, fin, bytes } => {
                if !bytes.is_empty() {
                    self.on_data(id, bytes).await;
                }
                if fin {
                    self.on_fin(id);
                }
            }
            Frame::Reset { id, status } => {
                if let Some(entry) = self.shared.lock().table.remove(&id) {
                    entry.state.reset(status);
                }
            }
            Frame::WindowUpdate { id: 0, delta } => self.shared.window.grow(i64::from(delta)),
            Frame::WindowUpdate { id, delta } => {
                if let Some(entry) = self.shared.lock().table.get(&id) {
                    entry.state.window.grow(i64::from(delta));
                }
            }
            Frame::Settings(settings) => {
                // Said before the first stream, if at all: streams that there are keep what they have.
                let window = settings.iter().find(|setting| setting.id == INITIAL_WINDOW_SIZE);
                if let Some(setting) = window {
                    for entry in self.shared.lock().table.values() {
                        entry.state.window.grow(i64::from(setting.value) - WINDOW);
                    }
                }
            }
            // The peer's own pings come back with the parity of its side.
            Frame::Ping(id) if (id % 2 == 1) == (self.shared.role == Role::Server) => {
                self.shared.urgent(Frame::Ping(id));
            }
            Frame::Ping(_) | Frame::SynReply { .. } | Frame::Headers { .. } | Frame::GoAway { .. } => {}
        }
        Ok(())
    }

    async fn on_syn(&mut self, id: u32, fin: bool, unidirectional: bool, headers: Headers) {
        let begun = {
            let mut streams = self.shared.lock();
            let fresh = id % 2 == 1 && id > streams.last;
            let wrong = if self.shared.role == Role::Client || !fresh {
                Some(status::PROTOCOL_ERROR)
            } else if streams.table.len() >= self.shared.limits.streams
                || self.shared.goodbye.load(Ordering::SeqCst)
            {
                Some(status::REFUSED_STREAM)
            } else {
                None
            };
            streams.last = streams.last.max(id);
            match wrong {
                Some(status) => Err(status),
                None => Ok(streams.begin(id)),
            }
        };
        let (state, pieces) = match begun {
            Ok(begun) => begun,
            Err(status) => return self.shared.urgent(Frame::Reset { id, status }),
        };
        if unidirectional {
            state.local_done.store(true, Ordering::SeqCst);
            state.window.end();
        }
        let stream = Stream::new(state, pieces, self.shared.clone());
        if fin {
            self.on_fin(id);
        }
        // Nobody takes streams any more: dropped, it is refused.
        let _ = self.arrive.send(Incoming::new(headers, stream)).await;
    }

    async fn on_data(&self, id: u32, bytes: Bytes) {
        let (state, pieces) = match self.shared.lock().table.get(&id) {
            Some(entry) => (entry.state.clone(), entry.pieces.clone()),
            // It was reset, and the peer had not heard of that yet.
            None => return,
        };
        let Some(pieces) = pieces else {
            return self.shared.urgent(Frame::Reset { id, status: status::PROTOCOL_ERROR });
        };
        let size = bytes.len();
        let own = state.room.acquire_many(size as u32).await;
        let all = self.shared.room.acquire_many(size as u32).await;
        match (own, all) {
            (Ok(own), Ok(all)) if pieces.send(bytes).is_ok() => {
                own.forget();
                all.forget();
            }
            // Its reader has gone.
            _ => drop(self.shared.read(id, size as u32)),
        }
    }

    fn on_fin(&self, id: u32) {
        let mut streams = self.shared.lock();
        let Some(entry) = streams.table.get_mut(&id) else { return };
        entry.state.remote_done.store(true, Ordering::SeqCst);
        entry.pieces = None;
        if entry.state.local_done.load(Ordering::SeqCst) {
            streams.table.remove(&id);
        }
    }
}
