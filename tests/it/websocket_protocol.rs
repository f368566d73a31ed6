//! RFC 6455 and RFC 7692, in the order of the Autobahn test suite: framing, pings, reserved bits,
//! opcodes, fragments, UTF-8, closing, sizes, compression.

use std::thread;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use crate::support::websocket::{BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT, WebSocket, frame};
use crate::support::{Daemon, Rgun, pattern};

/// Sends these frames on a new connection, which must be closed with this code.
fn assert_closes(daemon: &Daemon, code: u16, frames: &[Vec<u8>]) {
    let mut socket = WebSocket::open(daemon, "/echo");
    socket.send_raw(frames.concat()).assert_failed(code);
}

// 1: framing.

#[test]
fn messages_of_every_length_are_echoed() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    for len in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 65_537, 200_000] {
        let text = "*".repeat(len);
        socket.send_text(&text).assert_text(&text);
        let bytes = pattern(len);
        assert_eq!(socket.send(FIN | BINARY, &bytes).read_message(), (BINARY, bytes), "{len}");
    }
}

#[test]
fn frames_in_single_bytes_are_reassembled() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let mut dribble = |first, payload: &[u8]| {
        for byte in frame(first, payload).chunks(1) {
            socket.send_raw(byte);
        }
    };
    dribble(FIN | PING, b"there?");
    dribble(FIN | TEXT, &[b'x'; 300]);
    let pong = socket.read_frame();
    assert_eq!((pong.first, pong.payload.as_slice()), (FIN | PONG, &b"there?"[..]));
    socket.assert_text(&"x".repeat(300));
}

#[test]
fn many_messages_in_one_write_are_answered_in_order() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let bytes: Vec<u8> =
        (0..3000).flat_map(|n| frame(FIN | TEXT, format!("message {n}").as_bytes())).collect();
    socket.send_raw(bytes);
    for n in 0..3000 {
        socket.assert_text(&format!("message {n}"));
    }
}

#[test]
fn frame_without_a_mask_is_a_violation() {
    let daemon = Rgun::fake_asgi().start_ready();
    assert_closes(&daemon, 1002, &[vec![0x81, 0x05, b'H', b'e', b'l', b'l', b'o']]);
    assert_closes(&daemon, 1002, &[vec![0x89, 0x00]]);
}

#[test]
fn length_that_is_not_minimal_is_a_violation() {
    let daemon = Rgun::fake_asgi().start_ready();
    assert_closes(&daemon, 1002, &[vec![0x82, 0xfe, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5]]);
    assert_closes(&daemon, 1002, &[[&[0x82, 0xff][..], &5_u64.to_be_bytes(), &[0; 9]].concat()]);
    assert_closes(&daemon, 1002, &[[&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat()]);
}

// 2: pings.

#[test]
fn ping_is_answered_with_its_payload() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    for payload in [&b""[..], b"Hello", &[0, 0xff, 0xfe, 0xcc], &[0xfe; 125]] {
        let pong = socket.send(FIN | PING, payload).read_frame();
        assert_eq!((pong.first, pong.payload.as_slice()), (FIN | PONG, payload));
    }
    assert_closes(&daemon, 1002, &[frame(FIN | PING, &[0xfe; 126])]);
}

#[test]
fn last_of_many_pings_is_answered() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    let pings: Vec<u8> = (0..10).flat_map(|n| frame(FIN | PING, format!("{n}").as_bytes())).collect();
    socket.send_raw(pings);
    while socket.read_frame().payload != b"9" {}
    socket.send_text("on").assert_text("on");
}

#[test]
fn unsolicited_pong_is_ignored() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    socket.send(FIN | PONG, "unasked").send(FIN | PONG, "").send_text("on").assert_text("on");
    assert_closes(&daemon, 1002, &[frame(FIN | PONG, &[0; 126])]);
}

// 3: reserved bits.

#[test]
fn reserved_bits_are_a_violation() {
    let daemon = Rgun::fake_asgi().start_ready();
    for bits in [0x10, 0x20, 0x30, RSV1, 0x50, 0x60, 0x70] {
        for opcode in [TEXT, BINARY, PING, PONG, CLOSE] {
            assert_closes(&daemon, 1002, &[frame(FIN | bits | opcode, b"")]);
        }
    }
    let mut socket = WebSocket::open(&daemon, "/echo");
    socket.send_text("before").assert_text("before");
    socket.send(FIN | 0x40 | TEXT, "after").assert_failed(1002);
}

// 4: opcodes.

#[test]
fn unknown_opcodes_are_a_violation() {
    let daemon = Rgun::fake_asgi().start_ready();
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        assert_closes(&daemon, 1002, &[frame(FIN | opcode, b"")]);
    }
}

// 5: fragments.

#[test]
fn fragments_with_control_frames_between_are_one_message() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo?whole");
    socket.send(TEXT, "frag").send(CONTINUATION, "").send(CONTINUATION, "ment").send(FIN | CONTINUATION, "");
    socket.assert_text("fragment");
    socket.send(BINARY, "").send(FIN | CONTINUATION, "");
    assert_eq!(socket.read_message(), (BINARY, Vec::new()));
    socket.send(TEXT, "frag").send(FIN | PING, "1");
    assert_eq!(socket.read_frame().payload, b"1");
    socket.send(CONTINUATION, "men").send(FIN | PING, "2");
    assert_eq!(socket.read_frame().payload, b"2");
    socket.send(FIN | CONTINUATION, "t").assert_text("fragment");
}

#[test]
fn fragments_out_of_place_are_a_violation() {
    let daemon = Rgun::fake_asgi().start_ready();
    assert_closes(&daemon, 1002, &[frame(PING, b"half")]);
    assert_closes(&daemon, 1002, &[frame(PONG, b"half")]);
    assert_closes(&daemon, 1002, &[frame(CLOSE, b"")]);
    assert_closes(&daemon, 1002, &[frame(CONTINUATION, b"of nothing")]);
    assert_closes(&daemon, 1002, &[frame(FIN | CONTINUATION, b"of nothing")]);
    assert_closes(&daemon, 1002, &[frame(TEXT, b"one"), frame(FIN | TEXT, b"another")]);
    assert_closes(&daemon, 1002, &[frame(TEXT, b"one"), frame(BINARY, b"another")]);
    let whole = [frame(TEXT, b"a"), frame(FIN | CONTINUATION, b"b"), frame(FIN | CONTINUATION, b"c")];
    assert_closes(&daemon, 1002, &whole);
}

#[test]
fn parts_sent_by_the_application_are_one_message() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/fragments");
    socket.assert_text("Hällo, wörld");
    socket.assert_text("");
    socket.send_text("on").assert_text("on");
}

// 6: UTF-8.

#[test]
fn text_may_be_cut_within_a_character() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo?whole");
    let text = "Hello-µ@ßöäüàá-UTF-8!! κόσμε 𐍈";
    socket.send_text(text).assert_text(text);
    socket.send(TEXT, "");
    for byte in text.as_bytes().chunks(1) {
        socket.send(CONTINUATION, byte);
    }
    socket.send(FIN | CONTINUATION, "").assert_text(text);
}

#[test]
fn text_that_is_not_utf_8_closes_with_1007() {
    let daemon = Rgun::fake_asgi().start_ready();
    assert_closes(&daemon, 1007, &[frame(FIN | TEXT, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited")]);
    assert_closes(&daemon, 1007, &[frame(FIN | TEXT, b"ends in the middle of \xe4\xb8")]);
    assert_closes(&daemon, 1007, &[frame(TEXT, b"overlong \xc0"), frame(FIN | CONTINUATION, b"\xaf")]);
    assert_closes(&daemon, 1007, &[frame(TEXT, b"beyond \xf4"), frame(CONTINUATION, b"\x90")]);
    let mut socket = WebSocket::open(&daemon, "/echo");
    let bytes = b"\xff\xfe".to_vec();
    assert_eq!(socket.send(FIN | BINARY, &bytes).read_message(), (BINARY, bytes), "bytes may be anything");
}

// 7: closing.

#[test]
fn close_is_answered_with_its_code() {
    let daemon = Rgun::fake_asgi().start_ready();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let mut socket = WebSocket::open(&daemon, "/echo");
        assert_eq!(socket.send_close(code, "bye").read_close().0, code);
        socket.assert_disconnected();
    }
    let mut socket = WebSocket::open(&daemon, "/echo");
    assert_eq!(
        socket.send(FIN | CLOSE, "").read_close().0,
        1005,
        "a close without a code is answered without a code"
    );
    socket.assert_disconnected();
}

#[test]
fn malformed_close_is_a_violation() {
    let daemon = Rgun::fake_asgi().start_ready();
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        assert_closes(&daemon, 1002, &[frame(FIN | CLOSE, &code.to_be_bytes())]);
    }
    assert_closes(&daemon, 1002, &[frame(FIN | CLOSE, b"\x03")]);
    assert_closes(&daemon, 1007, &[frame(FIN | CLOSE, b"\x03\xe8\xce\xba\xed\xa0\x80")]);
    assert_closes(&daemon, 1002, &[frame(FIN | CLOSE, &[3; 126])]);
}

#[test]
fn frames_after_a_close_are_ignored() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo");
    socket.send_text("before").assert_text("before");
    socket.send_raw(
        [frame(FIN | CLOSE, b"\x03\xe8"), frame(FIN | TEXT, b"after"), frame(FIN | PING, b"")].concat(),
    );
    assert_eq!(socket.read_close().0, 1000);
    socket.assert_disconnected();
}

// 9: sizes.

#[test]
fn message_may_have_up_to_max_message_bytes() {
    let daemon = Rgun::fake_asgi().set("websocket.max_message", "100000").start_ready();
    let mut socket = WebSocket::open(&daemon, "/echo?whole");
    let largest = pattern(100_000);
    assert_eq!(socket.send(FIN | BINARY, &largest).read_message(), (BINARY, largest.clone()));
    for piece in largest.chunks(30_000) {
        socket.send(if piece.as_ptr() == largest.as_ptr() { BINARY } else { CONTINUATION }, piece);
    }
    assert_eq!(socket.send(FIN | CONTINUATION, "").read_message(), (BINARY, largest.clone()));
    socket.send(BINARY, &largest).send(CONTINUATION, "").send(FIN | CONTINUATION, "!").assert_failed(1009);
    // The length in the frame's head suffices; the payload is not awaited.
    let announced = [&[FIN | BINARY, 0xff][..], &(1_u64 << 40).to_be_bytes(), &[1, 2, 3, 4]].concat();
    assert_closes(&daemon, 1009, &[announced]);
}

#[test]
fn messages_of_megabytes_are_not_buffered_whole() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open(&daemon, "/slow/0");
    let before = daemon.rss();
    let bytes = pattern(16 << 20);
    socket
        .send(FIN | BINARY, &bytes)
        .send_text("end")
        .assert_text(&format!("messages=1 bytes={}", bytes.len()));
    let mut socket = WebSocket::open(&daemon, "/send/1/16777216");
    assert!(socket.read_message() == (BINARY, bytes));
    // The limit includes the 4 MiB of the worker's slab.
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 7 << 20, "{} KiB more", grown >> 10);
}

// 12 and 13: compression.

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    Compress::new(Compression::default(), false)
        .compress_vec(bytes, &mut out, FlushCompress::Sync)
        .expect("room");
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}

fn inflated(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 1024);
    let bytes = [bytes, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false).decompress_vec(&bytes, &mut out, FlushDecompress::Sync).expect("deflate");
    out
}

/// Reads the next message and inflates it. Returns also whether the message was compressed.
fn inflated_message(socket: &mut WebSocket, len: usize) -> (Vec<u8>, bool) {
    let mut frame = socket.read_frame();
    let is_compressed = frame.first & RSV1 != 0;
    let mut payload = frame.payload;
    while frame.first & FIN == 0 {
        frame = socket.read_frame();
        assert_eq!(frame.first & 0x7f, CONTINUATION, "only the first frame has RSV1");
        payload.extend_from_slice(&frame.payload);
    }
    (if is_compressed { inflated(&payload, len) } else { payload }, is_compressed)
}

#[test]
fn messages_are_compressed_both_ways_when_negotiated() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open_with(&daemon, "/echo?whole", DEFLATE);
    let agreed = socket.response.field("sec-websocket-extensions");
    assert_eq!(agreed, "permessage-deflate; server_no_context_takeover; client_no_context_takeover");
    for len in [0, 1, 100, 1023, 1024, 5000, 70_000, 300_000] {
        let text: String = "to be repeated ".chars().cycle().take(len).collect();
        let (received, is_compressed) = {
            socket.send(FIN | RSV1 | TEXT, deflated(text.as_bytes()));
            inflated_message(&mut socket, len)
        };
        assert!(received == text.as_bytes(), "{len}");
        assert_eq!(is_compressed, len >= 1024, "{len}");
        // A sender may leave a message uncompressed.
        socket.send_text(&text);
        assert!(inflated_message(&mut socket, len).0 == text.as_bytes(), "{len}");
    }
}

#[test]
fn compressed_messages_may_be_fragmented() {
    let daemon = Rgun::fake_asgi().start_ready();
    let mut socket = WebSocket::open_with(&daemon, "/echo?whole", DEFLATE);
    let text = "κόσμε, again and again and again ".repeat(10);
    for _ in 0..2 {
        let bytes = deflated(text.as_bytes());
        socket.send(RSV1 | TEXT, "");
        for piece in bytes.chunks(3) {
            socket.send(CONTINUATION, piece).send(FIN | PING, "");
            assert_eq!(socket.read_frame().first, FIN | PONG);
        }
        socket.send(FIN | CONTINUATION, "").assert_text(&text);
    }
}

#[test]
fn smaller_server_window_is_respected() {
    let daemon = Rgun::fake_asgi().start_ready();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8, \
                 permessage-deflate; server_max_window_bits=9\r\n";
    let mut socket = WebSocket::open_with(&daemon, "/echo?whole", offer);
    assert!(socket.response.field("sec-websocket-extensions").ends_with("; server_max_window_bits=9"));
    // A repetition must not refer to bytes outside the window.
    let bytes = [pattern(251 * 4), pattern(251 * 4)].concat();
    let random: Vec<u8> = (0..2000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for message in [bytes, [random.clone(), random].concat()] {
        socket.send(FIN | BINARY, &message);
        let frame = socket.read_frame();
        let mut out = Vec::with_capacity(message.len() + 1024);
        let payload = [&frame.payload[..], &[0, 0, 0xff, 0xff]].concat();
        let mut inflate = Decompress::new_with_window_bits(false, 9);
        inflate.decompress_vec(&payload, &mut out, FlushDecompress::Sync).expect("within the window");
        assert_eq!((frame.first, out == message), (FIN | RSV1 | BINARY, true));
    }
}

#[test]
fn nothing_is_compressed_unless_negotiated() {
    let daemon = Rgun::fake_asgi().start_ready();
    for fields in ["", "Sec-WebSocket-Extensions: permessage-deflate; no_such_thing\r\n"] {
        let mut socket = WebSocket::open_with(&daemon, "/echo", fields);
        assert!(!socket.response.has("sec-websocket-extensions"));
        let text = "x".repeat(10_000);
        socket.send_text(&text).assert_text(&text);
        socket.send(FIN | RSV1 | TEXT, deflated(b"x")).assert_failed(1002);
    }
    let daemon = Rgun::fake_asgi().set("websocket.compression", "false").start_ready();
    let socket = WebSocket::open_with(&daemon, "/echo", DEFLATE);
    assert!(!socket.response.has("sec-websocket-extensions"));
}

#[test]
fn message_that_inflates_over_the_limit_closes_with_1009() {
    let daemon = Rgun::fake_asgi().set("websocket.max_message", "1MiB").start_ready();
    let mut largest = WebSocket::open_with(&daemon, "/slow/0", DEFLATE);
    largest
        .send(FIN | RSV1 | BINARY, deflated(&vec![0; 1 << 20]))
        .send_text("end")
        .assert_text("messages=1 bytes=1048576");
    let before = daemon.rss();
    // 64 MiB of zeros.
    let bomb = deflated(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000, "{}", bomb.len());
    let mut socket = WebSocket::open_with(&daemon, "/slow/0", DEFLATE);
    socket.send(FIN | RSV1 | BINARY, &bomb).assert_failed(1009);
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 4 << 20, "{} KiB more", grown >> 10);
}

#[test]
fn malformed_compressed_messages_are_violations() {
    let daemon = Rgun::fake_asgi().start_ready();
    let refused = |frames: &[u8], code| {
        WebSocket::open_with(&daemon, "/echo", DEFLATE).send_raw(frames).assert_failed(code);
    };
    refused(&frame(FIN | RSV1 | TEXT, &[0xff; 20]), 1002);
    refused(&frame(FIN | RSV1 | TEXT, &deflated(b"abc\xff")), 1007);
    refused(&[frame(RSV1 | TEXT, &deflated(b"a")), frame(FIN | RSV1 | CONTINUATION, b"")].concat(), 1002);
    refused(&frame(FIN | RSV1 | PING, b""), 1002);
}

#[test]
fn compressed_messages_of_many_clients_are_not_mixed_up() {
    let daemon = Rgun::fake_asgi().start_ready();
    thread::scope(|scope| {
        for client in 0..6_usize {
            let daemon = &daemon;
            scope.spawn(move || {
                let mut socket = WebSocket::open_with(daemon, "/echo?whole", DEFLATE);
                for round in 1..4 {
                    let text = format!("client {client} in round {round}; ").repeat(10_000);
                    socket.send(FIN | RSV1 | TEXT, deflated(text.as_bytes()));
                    let (received, _) = inflated_message(&mut socket, text.len());
                    assert!(received == text.as_bytes(), "client {client} in round {round}");
                }
            });
        }
    });
}
