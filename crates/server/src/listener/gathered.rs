//! What HTTP/2 writes in one turn of its thread, gathered into one write.
//!
//! HTTP/2 flushes frame by frame. An answer through gRPC is three of them, and its trailers alone used to be a TLS
//! record, a packet, and a wake-up of the client; a stream of events was all of that for each event. Here a flush
//! waits until the thread has nothing else to do: what other requests of the same connection have to say goes along.
//!
//! For connections that flush again when they are woken, which those of HTTP/2 do at the end of every turn. A task that
//! keeps the thread busy keeps what was gathered waiting, so not for those of other servers.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered at most: as many as a TLS record has. Larger writes are passed on as they are.
const MOST: usize = 16 << 10;

/// A stream whose small writes are gathered.
pub(super) struct Gathered<S> {
    stream: S,
    /// Whether they are: not on a connection that does not flush again when it is woken, or that waits for nothing.
    gathers: bool,
    /// Taken, and not yet given to `stream`. Holds no memory while it is empty: most connections are idle.
    waiting: Vec<u8>,
    flush: Flush,
    turn: Arc<Turn>,
}

/// Whether what waits is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flush {
    Unasked,
    /// At the end of this turn.
    PutOff,
    Due,
}

/// The end of the turn in which a flush was put off.
#[derive(Default)]
struct Turn {
    is_over: AtomicBool,
    connection: AtomicWaker,
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.connection.wake();
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(stream: S, gathers: bool) -> Self {
        Self { stream, gathers, waiting: Vec::new(), flush: Flush::Unasked, turn: Arc::default() }
    }

    /// Has the connection woken at the end of this turn.
    fn put_off(&mut self, context: &Context<'_>) {
        self.turn.connection.register(context.waker());
        if self.flush == Flush::Unasked {
            self.flush = Flush::PutOff;
            let waker = Waker::from(Arc::clone(&self.turn));
            // Leaves the waker with the thread, which calls it before it waits for the kernel.
            let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
        }
    }

    /// Gives `stream` all that waits.
    fn pass_on(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut passed = 0;
        let outcome = loop {
            if passed == self.waiting.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(context, &self.waiting[passed..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(some)) => passed += some,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.waiting.drain(..passed);
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() + length > MOST {
            ready!(self.pass_on(context))?;
        }
        if length > MOST || !self.gathers {
            return Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        }
        self.waiting.reserve(length);
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.turn.is_over.swap(false, Ordering::Acquire) {
            self.flush = Flush::Due;
        }
        if self.flush != Flush::Due && !self.waiting.is_empty() {
            self.put_off(context);
            return Poll::Ready(Ok(()));
        }
        ready!(self.pass_on(context))?;
        if self.flush == Flush::Due {
            self.flush = Flush::Unasked;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.pass_on(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Notes how long each write was, and takes no more than it has room for.
    #[derive(Default)]
    struct Noted {
        writes: Vec<usize>,
        bytes: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for Noted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken == 0 {
                self.room = usize::MAX;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.writes.push(taken);
            self.bytes.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Flushes at the end of every turn, as a connection of HTTP/2 does, until everything is passed on.
    async fn turns(gathered: &mut Gathered<Noted>) -> usize {
        let mut turns = 0;
        std::future::poll_fn(|context| {
            turns += 1;
            ready!(Pin::new(&mut *gathered).poll_flush(context))?;
            if gathered.waiting.is_empty() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
        })
        .await
        .unwrap();
        turns
    }

    fn gathered(room: usize) -> Gathered<Noted> {
        Gathered::new(Noted { room, ..Noted::default() }, true)
    }

    #[tokio::test]
    async fn what_is_flushed_frame_by_frame_goes_as_one() {
        let mut gathered = gathered(usize::MAX);
        for frame in ["head", "data", "trailers"] {
            gathered.write_all(frame.as_bytes()).await.unwrap();
            gathered.flush().await.unwrap();
        }
        assert!(gathered.stream.writes.is_empty(), "nothing goes before the turn is over");
        assert_eq!(turns(&mut gathered).await, 2);
        assert_eq!(gathered.stream.writes, [16]);
        assert_eq!(gathered.waiting.capacity(), 0, "an idle connection holds no memory");
        gathered.write_all(b"more").await.unwrap();
        assert_eq!(turns(&mut gathered).await, 2, "the next turn is like the first");
        assert_eq!(gathered.stream.bytes, b"headdatatrailersmore");
    }

    #[tokio::test]
    async fn a_peer_that_takes_little_is_waited_for() {
        let mut gathered = gathered(3);
        gathered.write_all(b"more than three").await.unwrap();
        turns(&mut gathered).await;
        assert_eq!(gathered.stream.bytes, b"more than three");
        assert_eq!(gathered.stream.writes[0], 3);
    }

    #[tokio::test]
    async fn large_writes_are_not_copied_and_keep_their_place() {
        let mut gathered = gathered(usize::MAX);
        gathered.write_all(b"small").await.unwrap();
        gathered.write_all(&[b'x'; MOST + 1]).await.unwrap();
        assert_eq!(gathered.stream.writes, [5, MOST + 1]);
        gathered.write_all(b"left").await.unwrap();
        gathered.shutdown().await.unwrap();
        assert_eq!(gathered.stream.bytes.len(), 5 + MOST + 1 + 4, "the end comes after all that was written");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_task_that_flushes_is_woken_by_itself() {
        let (near, mut far) = tokio::io::duplex(64);
        let writing = async move {
            let mut gathered = Gathered::new(near, true);
            gathered.write_all(&[7; 1000]).await.unwrap();
            std::future::poll_fn(|context| {
                ready!(Pin::new(&mut gathered).poll_flush(context))?;
                if gathered.waiting.is_empty() { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
            })
            .await
        };
        let mut read = Vec::new();
        let both = async { tokio::join!(far.read_to_end(&mut read), writing) };
        let (reading, writing) =
            tokio::time::timeout(std::time::Duration::from_secs(10), both).await.unwrap();
        reading.and(writing).unwrap();
        assert_eq!(read, [7; 1000]);
    }
}
