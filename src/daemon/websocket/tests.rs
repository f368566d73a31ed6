//! Receiving and sending against each other and against themselves: whatever way bytes are cut, the same comes out.

use bytes::Bytes;

use super::deflate::{DeflatePool, Deflater, InflateBuffer};
use super::extension::DeflateParams;
use super::frame::{Mask, WebSocketError};
use super::receive::{ClientEvent, Receiver};
use super::send::Sender;
use crate::rng::Rng;

const AGREED: DeflateParams = DeflateParams { window_bits: 15 };
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A client's frame.
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

/// What came, put together.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Came {
    Message(Vec<u8>, bool),
    Ping(Vec<u8>),
    Pong,
    Close(Option<(u16, String)>),
    Violation(u16),
}

/// Receives these bytes, of which so many come at a time, with so much room to inflate into.
fn receive(bytes: &[u8], cut: &mut impl FnMut() -> usize, most: u64, room: usize) -> Vec<Came> {
    let pool = DeflatePool::default();
    let mut receiver = Receiver::new(most, true);
    let (mut input, mut inflated) = (Vec::new(), InflateBuffer::new(room));
    let (mut came, mut message) = (Vec::new(), Vec::new());
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
                    (!more).then(|| Came::Message(std::mem::take(message), text))
                }
                ClientEvent::Ping(payload) => Some(Came::Ping(payload.to_vec())),
                ClientEvent::Pong => Some(Came::Pong),
                ClientEvent::Close(close) => {
                    Some(Came::Close(close.map(|(code, text)| (code, text.to_owned()))))
                }
            });
            input.drain(..used);
            Ok::<_, WebSocketError>(event)
        };
        match step(&mut receiver, &mut input, &mut inflated, &mut message) {
            Err(violation) => {
                came.push(Came::Violation(violation.code));
                return came;
            }
            Ok(Some(event)) => came.extend(event),
            Ok(None) if rest.is_empty() => return came,
            Ok(None) => {
                let (now, later) = rest.split_at(cut().min(rest.len()));
                input.extend_from_slice(now);
                rest = later;
            }
        }
    }
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Deflater::new(AGREED, &DeflatePool::default()).deflate(bytes, true, &mut out);
    out
}

#[test]
fn it_is_all_the_same_how_bytes_are_cut() {
    let random: Vec<u8> = (0..5000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let text = "κόσμε, and again κόσμε; ".repeat(1000);
    let compressed = deflated(text.as_bytes());
    let (half, rest) = compressed.split_at(compressed.len() / 2);
    let bytes = [
        frame(0x81, b"Hello"),
        frame(0x01, "h\u{e4}".as_bytes()),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x80, b"llo"),
        frame(0x82, &random),
        frame(0xc1, &deflated(text.as_bytes())),
        frame(0x41, half),
        frame(0x8a, b""),
        frame(0x80, rest),
        frame(0xc2, &deflated(&random)),
        frame(0xc2, &deflated(b"")),
        frame(0x82, b""),
        frame(0x88, b"\x03\xe9bye"),
    ]
    .concat();
    let message = |bytes: &[u8], text| Came::Message(bytes.to_vec(), text);
    let expected = [
        message(b"Hello", true),
        Came::Ping(b"ping".to_vec()),
        message("h\u{e4}llo".as_bytes(), true),
        message(&random, false),
        message(text.as_bytes(), true),
        Came::Pong,
        message(text.as_bytes(), true),
        message(&random, false),
        message(b"", false),
        message(b"", false),
        Came::Close(Some((1001, "bye".to_owned()))),
    ];
    let mut rng = Rng::new(0x9e37_79b9_7f4a_7c15);
    for (most_at_a_time, room) in [
        (bytes.len(), 65_536),
        (1, 65_536),
        (7, 100),
        (300, 1000),
        (5000, 64),
        (70_000, 65_536),
        // Each byte that comes out has all masked anew that lies there: not so much at a time.
        (1000, 1),
    ] {
        let came = receive(&bytes, &mut || 1 + rng.index(most_at_a_time), 1 << 20, room);
        assert!(came == expected, "up to {most_at_a_time} at a time, room for {room}: {} came", came.len());
    }
}

#[test]
fn what_inflates_to_too_much_is_told_before_it_is_all_there() {
    let bomb = frame(0xc2, &deflated(&vec![0; 1 << 20]));
    for (most, came) in [(1 << 20, 1 << 20), ((1 << 20) - 1, 0)] {
        let got = receive(&bomb, &mut || 10, most, 4096);
        match got.as_slice() {
            [Came::Message(bytes, false)] => assert_eq!(bytes.len(), came),
            [Came::Violation(1009)] => assert_eq!(came, 0),
            other => panic!("{} came", other.len()),
        }
    }
}

#[test]
fn no_bytes_at_all_do_harm() {
    let mut rng = Rng::new(42);
    for _ in 0..3000 {
        let len = 1 + rng.index(200);
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.byte()).collect();
        if rng.percent(50) {
            // As if it began properly.
            bytes.splice(0..0, [rng.pick(&[0xc1, 0x81, 0xc2, 0x01, 0x89]), 0xe4]);
        }
        let came = receive(&bytes, &mut || 1 + rng.index(50), 1000, 64);
        let violations = came.iter().filter(|came| matches!(came, Came::Violation(_))).count();
        assert!(violations <= 1);
    }
}

/// All that is to be written, and whether more is to be given before.
fn written(sender: &mut Sender) -> Vec<u8> {
    let mut out = Vec::new();
    while !sender.is_empty() {
        let bytes: Vec<u8> = sender.unwritten().iter().flat_map(|slice| slice.to_vec()).collect();
        // As a socket that takes little.
        let len = bytes.len().min(1000);
        out.extend_from_slice(&bytes[..len]);
        sender.advance(len);
    }
    out
}

#[test]
fn what_is_sent_in_parts_is_one_message_compressed_or_not() {
    let text: Bytes = "something to be sent, and again something ".repeat(500).into();
    for agreed in [None, Some(AGREED)] {
        let (pool, mut work) = (DeflatePool::default(), Vec::new());
        for cuts in [vec![], vec![1], vec![0, 10_000], vec![1000, 1001, 20_000]] {
            let mut sender = Sender::new(agreed);
            let (mut at, mut out) = (0, Vec::new());
            for end in cuts.iter().copied().chain([text.len()]) {
                assert!(sender.can_send_message());
                let part = text.slice(at..end);
                sender.push_message(part, true, end < text.len(), &mut work, &pool);
                out.extend(written(&mut sender));
                at = end;
            }
            // A client's frames have masks; else there is no difference.
            let came = receive(&masked(&out), &mut || 100, 1 << 20, 4096);
            let whole = [Came::Message(text.to_vec(), true)];
            assert!(came == whole, "{cuts:?}, {agreed:?}");
            assert_eq!(out.len() < text.len() / 10, agreed.is_some(), "{} bytes", out.len());
        }
    }
}

#[test]
fn what_has_begun_to_be_written_in_one_turn_goes_on_in_the_next() {
    let (pool, mut work, mut room) = (DeflatePool::default(), Vec::new(), Vec::with_capacity(1000));
    let mut sender = Sender::new(None);
    sender.borrow_buffer(&mut room);
    sender.push_message(Bytes::from_static(b"small"), true, false, &mut work, &pool);
    sender.push_message(vec![b'x'; 10_000].into(), false, false, &mut work, &pool);
    assert!(
        !sender.can_send_message() && !sender.can_send_control(),
        "the large one is written from where it lies"
    );
    sender.advance(3);
    sender.return_buffer(&mut room);
    assert_eq!((room.len(), room.capacity()), (0, 1000), "the room is another's");
    sender.borrow_buffer(&mut room);
    let rest = written(&mut sender);
    assert_eq!(rest.len(), 7 + 4 + 10_000 - 3);
    assert!(rest.starts_with(b"mall\x82\x7e"), "{:?}", &rest[..10]);
    sender.return_buffer(&mut room);
    sender.push_ping();
    assert_eq!(written(&mut sender), [0x89, 0]);
}

/// A server's frames as a client's.
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
