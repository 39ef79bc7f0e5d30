//! The bytes: whatever is written is read, in whatever pieces it comes; whatever comes, nothing panics.
#![allow(clippy::unwrap_used)]

use balsa_spdy::Headers;
use balsa_spdy::frame::{Decoder, Encoder, Frame, MAX_PIECE, Setting};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

fn headers() -> impl Strategy<Value = Headers> {
    let value = "[ -~]{0,40}";
    // Names are kept apart: several values of one come back beside each other.
    prop::collection::btree_map("[a-z][a-z0-9-]{0,20}", value, 0..6).prop_map(Headers::new)
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 1_u32..0x7fff_ffff;
    prop_oneof![
        (id.clone(), 0_u8..8, any::<bool>(), any::<bool>(), headers()).prop_map(
            |(id, priority, fin, unidirectional, headers)| Frame::SynStream {
                id,
                priority,
                fin,
                unidirectional,
                headers
            }
        ),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
        (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (0..0x7fff_ffff_u32, 0..0x7fff_ffff_u32).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        any::<u32>().prop_map(Frame::Ping),
        prop::collection::vec((any::<u8>(), 0..0x00ff_ffff_u32, any::<u32>()), 0..5).prop_map(|settings| {
            let setting = |(flags, id, value)| Setting { flags, id, value };
            Frame::Settings(settings.into_iter().map(setting).collect())
        }),
        (id, any::<bool>(), prop::collection::vec(any::<u8>(), 0..200))
            .prop_map(|(id, fin, bytes)| Frame::Data { id, fin, bytes: bytes.into() }),
    ]
}

/// Pieces of one data frame, and frames of the same stream that follow each other, become one.
fn joined(frames: Vec<Frame>) -> Vec<Frame> {
    let mut out: Vec<Frame> = Vec::new();
    for frame in frames {
        if let Frame::Data { id, fin, bytes } = &frame
            && let Some(Frame::Data { id: last, fin: ended, bytes: before }) = out.last_mut()
            && last == id
            && !*ended
        {
            *before = Bytes::from([&before[..], &bytes[..]].concat());
            *ended = *fin;
            continue;
        }
        out.push(frame);
    }
    out
}

fn decode(bytes: &[u8], cuts: usize) -> Result<Vec<Frame>, balsa_spdy::FrameError> {
    let (mut decoder, mut waiting, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(cuts.max(1)) {
        waiting.extend_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut waiting)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #[test]
    fn what_is_written_is_read(frames in prop::collection::vec(frame(), 1..12), cuts in 1_usize..300) {
        let (mut encoder, mut bytes) = (Encoder::new(), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut bytes).unwrap();
        }
        prop_assert_eq!(joined(decode(&bytes, cuts).unwrap()), joined(frames));
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in 1_usize..400) {
        let _ = decode(&bytes, cuts);
    }

    #[test]
    fn nothing_panics_after_a_sound_head(
        kind in 0_u8..12,
        flags in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = vec![0x80, 3, 0, kind, flags, 0, 0, body.len() as u8];
        bytes.extend(body);
        let _ = decode(&bytes, 1000);
    }

    #[test]
    fn a_flipped_bit_is_no_panic(frames in prop::collection::vec(frame(), 1..6), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (mut encoder, mut bytes) = (Encoder::new(), BytesMut::new());
        for frame in &frames {
            encoder.encode(frame, &mut bytes).unwrap();
        }
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = decode(&bytes, 64);
    }
}

#[test]
fn a_long_data_frame_comes_in_pieces() {
    let data = Bytes::from(vec![7; 100_000]);
    let mut bytes = BytesMut::new();
    Encoder::new().encode(&Frame::Data { id: 5, fin: true, bytes: data.clone() }, &mut bytes).unwrap();
    let frames = decode(&bytes, usize::MAX).unwrap();
    assert!(
        frames.iter().all(|frame| matches!(frame, Frame::Data { bytes, .. } if bytes.len() <= MAX_PIECE))
    );
    let ended = frames.iter().filter(|frame| matches!(frame, Frame::Data { fin: true, .. })).count();
    assert_eq!((ended, joined(frames)), (1, vec![Frame::Data { id: 5, fin: true, bytes: data }]));
}

#[test]
fn other_protocols_are_refused() {
    assert!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0], 8).is_err(), "SPDY/2");
    assert!(decode(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff], 8).is_err(), "16 MiB of headers");
    assert_eq!(decode(&[0x80, 3, 0, 10, 0, 0, 0, 1, 9], 9), Ok(Vec::new()), "CREDENTIAL is skipped");
}
