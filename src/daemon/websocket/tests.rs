//! [`Receiver`] and [`Sender`] against each other: the result does not depend on how the bytes are
//! split.

use bytes::Bytes;

use super::deflate::{DeflatePool, Deflater, InflateBuffer};
use super::extension::DeflateParams;
use super::frame::{Mask, WebSocketError};
use super::receive::{ClientEvent, Receiver};
use super::send::Sender;
use crate::rng::Rng;

const PARAMS: DeflateParams = DeflateParams { window_bits: 15 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Encodes a client's frame; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0xff];
    match u16::try_from(payload.len()) {
        Ok(len @ 0..126) => bytes[1] = 0x80 | u8::try_from(len).unwrap(),
        Ok(len) => {
            bytes[1] = 0xfe;
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        Err(_) => bytes.extend_from_slice(&(payload.len() as u64).to_be_bytes()),
    }
    bytes.extend_from_slice(&MASK);
    let mut payload = payload.to_vec();
    Mask::from(MASK).apply(&mut payload);
    bytes.extend(payload);
    bytes
}

/// A received event; parts are joined to messages.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Received {
    Message(Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong,
    Close(Option<(u16, String)>),
    Violation(u16),
}

/// Receives `bytes` in pieces of `cut()` bytes. `room`: size of the buffer for decompressed bytes.
fn receive(bytes: &[u8], cut: &mut impl FnMut() -> usize, max_message: u64, room: usize) -> Vec<Received> {
    let pool = DeflatePool::default();
    let mut receiver = Receiver::new(max_message, true);
    let (mut input, mut inflated) = (Vec::new(), InflateBuffer::new(room));
    let (mut events, mut message) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    loop {
        let step = |receiver: &mut Receiver,
                    input: &mut Vec<u8>,
                    inflated: &mut InflateBuffer,
                    message: &mut Vec<u8>| {
            let (used, event) = receiver.next(input, inflated, &pool)?;
            let event = event.map(|event| match event {
                ClientEvent::Part { bytes, text, more } => {
                    message.extend_from_slice(bytes);
                    (!more).then(|| Received::Message(std::mem::take(message), text))
                }
                ClientEvent::Ping(payload) => Some(Received::Ping(payload.to_vec())),
                ClientEvent::Pong => Some(Received::Pong),
                ClientEvent::Close(close) => {
                    Some(Received::Close(close.map(|(code, text)| (code, text.to_owned()))))
                }
            });
            input.drain(..used);
            Ok::<_, WebSocketError>(event)
        };
        match step(&mut receiver, &mut input, &mut inflated, &mut message) {
            Err(violation) => {
                events.push(Received::Violation(violation.code));
                return events;
            }
            Ok(Some(event)) => events.extend(event),
            Ok(None) if rest.is_empty() => return events,
            Ok(None) => {
                let (now, remainder) = rest.split_at(cut().min(rest.len()));
                input.extend_from_slice(now);
                rest = remainder;
            }
        }
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(PARAMS, &DeflatePool::default()).deflate(bytes, true, &mut out);
    out
}

#[test]
fn received_events_do_not_depend_on_how_bytes_are_split() {
    let noise: Vec<u8> = (0..5000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let text = "κόσμε, and again κόσμε; ".repeat(1000);
    let compressed = deflated(text.as_bytes());
    let (half, rest) = compressed.split_at(compressed.len() / 2);
    let bytes = [
        frame(0x81, b"Hello"),
        frame(0x01, "h\u{e4}".as_bytes()),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x80, b"llo"),
        frame(0x82, &noise),
        frame(0xc1, &deflated(text.as_bytes())),
        frame(0x41, half),
        frame(0x8a, b""),
        frame(0x80, rest),
        frame(0xc2, &deflated(&noise)),
        frame(0xc2, &deflated(b"")),
        frame(0x82, b""),
        frame(0x88, b"\x03\xe9bye"),
    ]
    .concat();
    let message = |bytes: &[u8], text| Received::Message(bytes.to_vec(), text);
    let expected = [
        message(b"Hello", true),
        Received::Ping(b"ping".to_vec()),
        message("h\u{e4}llo".as_bytes(), true),
        message(&noise, false),
        message(text.as_bytes(), true),
        Received::Pong,
        message(text.as_bytes(), true),
        message(&noise, false),
        message(b"", false),
        message(b"", false),
        Received::Close(Some((1001, "bye".to_owned()))),
    ];
    let mut rng = Rng::new(0x9e37_79b9_7f4a_7c15);
    for (max_piece, room) in [
        (bytes.len(), 65_536),
        (1, 65_536),
        (7, 100),
        (300, 1000),
        (5000, 64),
        (70_000, 65_536),
        // For each decompressed byte, all remaining input is masked again, so the input comes in
        // small pieces.
        (1000, 1),
    ] {
        let events = receive(&bytes, &mut || 1 + rng.index(max_piece), 1 << 20, room);
        assert!(
            events == expected,
            "pieces of up to {max_piece} bytes, room for {room}: {} events",
            events.len()
        );
    }
}

#[test]
fn message_that_inflates_over_the_limit_is_rejected() {
    let bomb = frame(0xc2, &deflated(&vec![0; 1 << 20]));
    for (limit, expected) in [(1 << 20, 1 << 20), ((1 << 20) - 1, 0)] {
        let got = receive(&bomb, &mut || 10, limit, 4096);
        match got.as_slice() {
            [Received::Message(bytes, false)] => assert_eq!(bytes.len(), expected),
            [Received::Violation(1009)] => assert_eq!(expected, 0),
            other => panic!("{} events", other.len()),
        }
    }
}

#[test]
fn random_bytes_cause_at_most_one_error() {
    let mut rng = Rng::new(42);
    for _ in 0..3000 {
        let len = 1 + rng.index(200);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.byte()).collect();
        if rng.percent(50) {
            // Start with a valid opcode.
            bytes.splice(0..0, [rng.pick(&[0xc1, 0x81, 0xc2, 0x01, 0x89]), 0xe4]);
        }
        let events = receive(&bytes, &mut || 1 + rng.index(50), 1000, 64);
        let violations = events.iter().filter(|event| matches!(event, Received::Violation(_))).count();
        assert!(violations <= 1);
    }
}

/// Writes all output of `sender`.
fn written(sender: &mut Sender) -> Vec<u8> {
    let mut out = Vec::new();
    while !sender.is_empty() {
        let bytes: Vec<u8> = sender.unwritten().iter().flat_map(|slice| slice.to_vec()).collect();
        // Behaves like a socket that accepts few bytes at once.
        let len = bytes.len().min(1000);
        out.extend_from_slice(&bytes[..len]);
        sender.advance(len);
    }
    out
}

#[test]
fn parts_are_sent_as_one_message_with_and_without_deflate() {
    let text: Bytes = "something to be sent, and again something ".repeat(500).into();
    for params in [None, Some(PARAMS)] {
        let (pool, mut work) = (DeflatePool::default(), Vec::new());
        for cuts in [vec![], vec![1], vec![0, 10_000], vec![1000, 1001, 20_000]] {
            let mut sender = Sender::new(params);
            let (mut at, mut out) = (0, Vec::new());
            for end in cuts.iter().copied().chain([text.len()]) {
                assert!(sender.can_send_message());
                let part = text.slice(at..end);
                sender.push_message(part, true, end < text.len(), &mut work, &pool);
                out.extend(written(&mut sender));
                at = end;
            }
            // Client frames differ from server frames only by the mask.
            let events = receive(&masked(&out), &mut || 100, 1 << 20, 4096);
            let whole = [Received::Message(text.to_vec(), true)];
            assert!(events == whole, "{cuts:?}, {params:?}");
            assert_eq!(out.len() < text.len() / 10, params.is_some(), "{} bytes", out.len());
        }
    }
}

#[test]
fn unwritten_output_is_kept_between_polls() {
    let (pool, mut work, mut room) = (DeflatePool::default(), Vec::new(), Vec::with_capacity(1000));
    let mut sender = Sender::new(None);
    sender.borrow_buffer(&mut room);
    sender.push_message(Bytes::from_static(b"small"), true, false, &mut work, &pool);
    sender.push_message(vec![b'x'; 10_000].into(), false, false, &mut work, &pool);
    assert!(!sender.can_send_message() && !sender.can_send_control(), "the large payload is not copied");
    sender.advance(3);
    sender.return_buffer(&mut room);
    assert_eq!((room.len(), room.capacity()), (0, 1000), "the shared buffer is returned");
    sender.borrow_buffer(&mut room);
    let rest = written(&mut sender);
    assert_eq!(rest.len(), 7 + 4 + 10_000 - 3);
    assert!(rest.starts_with(b"mall\x82\x7e"), "{:?}", &rest[..10]);
    sender.return_buffer(&mut room);
    sender.push_ping();
    assert_eq!(written(&mut sender), [0x89, 0]);
}

/// Turns a server's frames into a client's.
fn masked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (len, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (usize::try_from(u64::from_be_bytes(rest[..8].try_into().unwrap())).unwrap(), &rest[8..]),
            len => (usize::from(*len), rest),
        };
        out.extend(frame(*first, &rest[..len]));
        bytes = &rest[len..];
    }
    out
}
