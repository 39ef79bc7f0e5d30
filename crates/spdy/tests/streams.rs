//! Connections: both sides over a pipe.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use balsa_spdy::frame::{Decoder, Encoder, Frame};
use balsa_spdy::{Connection, Error, Headers, Limits, Role, Stream, connection};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::task::JoinSet;

const LIMITS: Limits = Limits { streams: 8 };

/// Both ends of a connection, and their work.
fn pair() -> (Connection, Connection, JoinSet<Result<(), Error>>) {
    let (a, b) = tokio::io::duplex(4096);
    let (client, client_work) = connection(a, Role::Client, LIMITS);
    let (server, server_work) = connection(b, Role::Server, LIMITS);
    let mut work = JoinSet::new();
    work.spawn(client_work);
    work.spawn(server_work);
    (client, server, work)
}

async fn opened(client: &mut Connection, server: &mut Connection) -> (Stream, Stream) {
    let ours = client.open(Headers::new([("streamType", "data")])).await.unwrap();
    let incoming = server.next().await.unwrap();
    assert_eq!(incoming.headers().get("streamtype"), "data");
    (ours, incoming.accept().await.unwrap())
}

async fn all(reader: &mut balsa_spdy::StreamReader) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    while let Some(piece) = reader.read().await? {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

#[tokio::test]
async fn much_goes_both_ways_at_once_and_each_way_ends_apart() {
    let (mut client, mut server, _work) = pair();
    let (ours, theirs) = opened(&mut client, &mut server).await;
    let data: Bytes = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
    let ((mut our_reader, mut our_writer), (mut their_reader, mut their_writer)) =
        (ours.split(), theirs.split());
    let sent = data.clone();
    let echo = async move {
        while let Some(piece) = their_reader.read().await.unwrap() {
            their_writer.write(piece).await.unwrap();
        }
        their_writer.finish().await.unwrap();
    };
    let send = async move {
        our_writer.write(sent).await.unwrap();
        our_writer.finish().await.unwrap();
    };
    let ((), (), back) = tokio::join!(echo, send, all(&mut our_reader));
    assert!(back.unwrap() == data);
}

#[tokio::test]
async fn a_reset_ends_both_directions() {
    let (mut client, mut server, _work) = pair();
    let (ours, theirs) = opened(&mut client, &mut server).await;
    let (mut reader, mut writer) = ours.split();
    drop(theirs);
    assert_eq!(reader.read().await, Err(Error::Reset(5)));
    writer.gone().await;
    assert_eq!(writer.write(Bytes::from_static(b"x")).await, Err(Error::Reset(5)));
    // And the connection goes on.
    opened(&mut client, &mut server).await;
}

#[tokio::test]
async fn what_is_not_taken_or_too_much_is_refused() {
    let (mut client, mut server, _work) = pair();
    let stream = client.open(Headers::default()).await.unwrap();
    drop(server.next().await.unwrap());
    assert_eq!(stream.split().0.read().await, Err(Error::Reset(3)));
    let mut kept = Vec::new();
    for _ in 0..LIMITS.streams {
        kept.push(opened(&mut client, &mut server).await);
    }
    let one_more = client.open(Headers::default()).await.unwrap();
    assert_eq!(one_more.split().0.read().await, Err(Error::Reset(3)));
    // One that has ended on both sides makes room.
    let (ours, theirs) = kept.pop().unwrap();
    let ((mut our_reader, our_writer), (mut their_reader, their_writer)) = (ours.split(), theirs.split());
    our_writer.finish().await.unwrap();
    their_writer.finish().await.unwrap();
    assert_eq!(our_reader.read().await, Ok(None));
    assert_eq!(their_reader.read().await, Ok(None));
    opened(&mut client, &mut server).await;
}

#[tokio::test]
async fn goodbye_comes_after_all_that_was_said() {
    let (mut client, mut server, mut work) = pair();
    let (ours, theirs) = opened(&mut client, &mut server).await;
    let (_reader, mut writer) = theirs.split();
    writer.write(Bytes::from(vec![1; 100_000])).await.unwrap();
    writer.finish().await.unwrap();
    server.close().await;
    let (mut reader, our_writer) = ours.split();
    assert_eq!(all(&mut reader).await.unwrap().len(), 100_000);
    drop((reader, our_writer));
    client.close().await;
    while let Some(ended) = work.join_next().await {
        assert_eq!(ended.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_ends_its_streams() {
    let (mut client, mut server, mut work) = pair();
    let (ours, theirs) = opened(&mut client, &mut server).await;
    work.shutdown().await;
    for stream in [ours, theirs] {
        let (mut reader, mut writer) = stream.split();
        assert_eq!(reader.read().await, Err(Error::Closed));
        assert_eq!(writer.write(Bytes::from_static(b"x")).await, Err(Error::Closed));
    }
    assert!(client.open(Headers::default()).await.is_err());
    assert!(server.next().await.is_none());
}

/// The server, and a client that writes its own frames.
fn by_hand() -> (Connection, DuplexStream, JoinSet<Result<(), Error>>) {
    let (a, b) = tokio::io::duplex(1 << 20);
    let (server, server_work) = connection(b, Role::Server, LIMITS);
    let mut work = JoinSet::new();
    work.spawn(server_work);
    (server, a, work)
}

#[tokio::test]
async fn pings_come_back_and_nonsense_ends_the_connection() {
    let (_server, mut io, mut work) = by_hand();
    let mut bytes = BytesMut::new();
    Encoder::new().encode(&Frame::Ping(77), &mut bytes).unwrap();
    io.write_all(&bytes).await.unwrap();
    let mut back = [0; 12];
    io.read_exact(&mut back).await.unwrap();
    assert_eq!(bytes, back[..]);
    io.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    io.write_all(&[0x80, 9, 0, 0, 0, 0, 0, 0]).await.unwrap();
    drop(io);
    assert!(work.join_next().await.is_some());
}

#[tokio::test]
async fn a_slow_reader_holds_up_the_sender_and_not_the_memory() {
    let (mut server, mut io, _work) = by_hand();
    let (mut encoder, mut bytes) = (Encoder::new(), BytesMut::new());
    let headers = Headers::new([("port", "80")]);
    let syn = Frame::SynStream { id: 1, priority: 0, fin: false, unidirectional: false, headers };
    encoder.encode(&syn, &mut bytes).unwrap();
    io.write_all(&bytes).await.unwrap();
    let (mut reader, _writer) = server.next().await.unwrap().accept().await.unwrap().split();
    let piece = Frame::Data { id: 1, fin: false, bytes: Bytes::from(vec![0; 32 << 10]) };
    let mut sent = 0;
    loop {
        bytes.clear();
        encoder.encode(&piece, &mut bytes).unwrap();
        if tokio::time::timeout(Duration::from_millis(300), io.write_all(&bytes)).await.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 1000, "nobody reads and it takes ever more");
    }
    for _ in 0..sent {
        reader.read().await.unwrap();
    }
    // And it was told that it may go on: reply, then windows.
    let mut answer = BytesMut::new();
    let mut decoder = Decoder::new();
    io.read_buf(&mut answer).await.unwrap();
    assert!(matches!(decoder.decode(&mut answer).unwrap(), Some(Frame::SynReply { id: 1, .. })));
    assert!(matches!(decoder.decode(&mut answer).unwrap(), Some(Frame::WindowUpdate { id: 1, .. })));
}
