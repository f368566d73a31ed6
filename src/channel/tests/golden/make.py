"""Writes the golden bytes of the channel's protocol, version 10, from its tables.

The bytes are built with `struct` from the tables in `src/channel/frame/mod.rs` and `control/mod.rs`, not by
the Rust encoder: daemon and worker share that code and could be wrong together. `golden.rs` has the same
values and compares them. Run this script by hand: `python3 src/channel/tests/golden/make.py`.
"""

import struct
from pathlib import Path

HERE = Path(__file__).parent / "v10"

# Indices of src/channel/header.rs, as numbers on purpose, so that a moved entry is noticed.
HOST, COOKIE, CONTENT_TYPE, CONTENT_LENGTH, SET_COOKIE, LINK, ACCEPT_RANGES = 0, 6, 9, 10, 72, 76, 83
LITERAL = 255
GET, POST, LITERAL_METHOD = 1, 3, 0
READY, REVOKED = 1, 3


def field(name, value):
    """One field: index into the table, or the name in bytes."""
    if isinstance(name, bytes):
        return struct.pack("<BH", LITERAL, len(name)) + name + struct.pack("<H", len(value)) + value
    return struct.pack("<BH", name, len(value)) + value


def request(exchange, method, path, fields=(), body=b"", **optional):
    """A submission frame; `optional` has further parts in bytes, and numbers of the head."""
    names = ("literal", "path", "query", "peer", "request_id", "root_path")
    parts = [{"path": path, **optional}.get(name, b"") for name in names]
    head = struct.pack(
        "<QQQBBBBHH6HHH",
        exchange,
        optional.get("body_len", len(body)),
        optional.get("received", 0),
        1,
        method,
        optional.get("version", 11),
        optional.get("flags", 0),
        len(fields),
        optional.get("listener", 0),
        *map(len, parts),
        optional.get("port", 0),
        optional.get("server_port", 0),
    )
    assert len(head) == 48
    if "tls" in optional:
        parts.append(short(optional["tls"]))
    return head + b"".join(parts) + b"".join(field(*f) for f in fields) + body


def short(value):
    """A part of a TLS block: its length in 2 bytes, then `value`."""
    return struct.pack("<H", len(value)) + value


def tls_block(version, suite, server_name, server_cert, client=b""):
    """A TLS block; `client` is the client's certificate, from `client_cert`."""
    head = struct.pack("<HH", version, suite) + short(server_name) + short(server_cert)
    return head + bytes([bool(client)]) + client


def client_cert(subject, issuer, serial, not_before, not_after, chain):
    """A client's certificate in a TLS block."""
    names = short(subject.encode()) + short(issuer.encode()) + short(serial)
    return names + short(not_before) + short(not_after) + b"".join(short(pem) for pem in chain)


def stream_frame(exchange, kind, flags=0, code=0, rest=b""):
    """A submission frame that follows a request."""
    head = struct.pack("<Q16xBBH4x", exchange, kind, flags, code)
    assert len(head) == 32
    return head + rest


def completion(exchange, kind, flags, status=0, fields=(), rest=b"", **optional):
    """A completion frame; `optional` has further numbers of the head, and the reason phrase."""
    reason = optional.get("reason", b"")
    numbers = [optional.get(name, 0) for name in ("chunks", "service", "slot")]
    head = struct.pack("<QBBHHHQHH4x", exchange, kind, flags, status, len(fields), *numbers, len(reason))
    assert len(head) == 32
    return head + reason + b"".join(field(*f) for f in fields) + rest


def text(value):
    """A text of control messages and application errors."""
    value = value.encode()
    return struct.pack("<I", len(value)) + value


def record(state, frame):
    """A record of a ring, padded to a multiple of 8 bytes."""
    return struct.pack("<II", len(frame), state) + frame + bytes(-len(frame) % 8)


END, BODY_FD, BODY_CHUNKS, DONE, TEXT, MORE, ENDS_TAKEOVER = 1, 2, 4, 8, 16, 32, 64
ZYGOTE, ON, UVLOOP = 1, 1, 2
RESPOND, BODY, RAISED, WINDOW_UPDATE, HINTS, TRAILERS, CLOSE = 1, 2, 3, 4, 5, 6, 7
PART, DISCONNECT = 2, 3
UNKNOWN_LENGTH = (1 << 64) - 1

GOLDEN = {
    "request-get": request(1, GET, b"/", fields=[(HOST, b"example.org")]),
    "request-post-inline": request(
        0x0102030405060708,
        POST,
        b"/a%20b",
        query=b"q=1&r",
        peer=b"2001:db8::1",
        request_id=b"0192-abc",
        fields=[
            (HOST, b"example.org"),
            (CONTENT_TYPE, b"text/plain"),
            (b"x-odd", b"\xff\x80"),
            (ACCEPT_RANGES, b""),
        ],
        body=b"hello\0body",
        received=123_456_789_012_345,
        flags=2,
        listener=2,
        port=54321,
    ),
    "request-literal-method-descriptor": request(
        9,
        LITERAL_METHOD,
        b"/dav",
        literal=b"PROPFIND",
        body_len=5_000_000_000,
        version=10,
        flags=1,
    ),
    "request-streamed": request(10, POST, b"/up", body_len=UNKNOWN_LENGTH, flags=4),
    "request-proxied": request(
        12, GET, b"/x", peer=b"192.0.2.7", request_id=b"id", root_path=b"/shop", server_port=8443, flags=2
    ),
    "request-websocket": request(11, GET, b"/ws", fields=[(HOST, b"example.org")], flags=10),
    "request-takeover": request(12, GET, b"/ws", fields=[(HOST, b"example.org")], flags=9),
    "request-tls": request(
        12,
        GET,
        b"/",
        tls=tls_block(0x0304, 0x1302, b"example.org", b"server"),
        fields=[(HOST, b"example.org")],
        flags=18,
    ),
    "request-client-cert": request(
        13,
        GET,
        b"/",
        tls=tls_block(
            0x0303,
            0xC02F,
            b"",
            b"server",
            client_cert(
                "CN=Zoë",
                "CN=CA",
                b"0A1B",
                b"Nov  9 08:00:00 2026 GMT",
                b"Nov  9 08:00:00 2027 GMT",
                [b"leaf", b"intermediate"],
            ),
        ),
        flags=18,
    ),
    "part": stream_frame(10, PART, rest=b"part"),
    "part-last": stream_frame(10, PART, 1),
    "part-message": stream_frame(11, PART, 6, rest="né".encode()),
    "disconnect": stream_frame(10, DISCONNECT),
    "disconnect-cancel": stream_frame(0x0102030405060708, DISCONNECT, 1),
    "disconnect-half": stream_frame(10, DISCONNECT, 2),
    "disconnect-websocket": stream_frame(11, DISCONNECT, 0, 1001, b"going away"),
    "window-update": completion(10, WINDOW_UPDATE, 0, slot=999, rest=struct.pack("<Q", 262144)),
    "hints": completion(10, HINTS, 0, fields=[(LINK, b"</a.css>; rel=preload")], slot=1),
    "trailers": completion(10, TRAILERS, END | DONE, fields=[(b"x-sum", b"13")]),
    "message": completion(11, BODY, TEXT | MORE, rest="né".encode()),
    "close": completion(11, CLOSE, END | DONE, 1000, rest=b"bye"),
    "respond-inline": completion(
        1,
        RESPOND,
        END | DONE,
        200,
        [(CONTENT_TYPE, b"text/plain"), (CONTENT_LENGTH, b"5"), (b"X-Mixed", b"v")],
        service=42_000,
        rest=b"hello",
    ),
    "respond-chunks": completion(
        2,
        RESPOND,
        BODY_CHUNKS,
        206,
        [(SET_COOKIE, b"a=1"), (SET_COOKIE, b"b=2")],
        chunks=2,
        slot=7,
        rest=struct.pack("<IIII", 3, 65536, 63, 1),
    ),
    "respond-file": completion(
        3, RESPOND, END | DONE | BODY_FD, 200, service=1, slot=513, rest=struct.pack("<QQ", 4096, 1 << 33)
    ),
    "respond-file-to-the-end": completion(
        6, RESPOND, END | BODY_FD, 200, slot=1, rest=struct.pack("<QQ", 0, (1 << 64) - 1)
    ),
    "respond-reason": completion(
        7, RESPOND, END | DONE, 299, [(CONTENT_LENGTH, b"1")], slot=2, reason=b"Odd R\xe9ason", rest=b"x"
    ),
    "body-part": completion(4, BODY, 0, slot=1, rest=b"part"),
    "body-last": completion(4, BODY, END | DONE, service=0xFFFF_FFFF_FFFF_FFFF, slot=1),
    "raised": completion(
        5,
        RAISED,
        END | DONE,
        service=7,
        rest=text("ValueError: nö") + text('Traceback (most recent call last):\n  File "a.py", line 1\n'),
    ),
    "raised-takeover": completion(
        12, RAISED, END | DONE | ENDS_TAKEOVER, rest=text("ConnectionError") + text("")
    ),
    "command-start": b"S"
    + struct.pack("<6I", 10, 262144, 131072, 64, 3, 17)
    + struct.pack("<HQBBBBBBBBII", 2, 0x0102030405060708, ZYGOTE, 1, 1, 1, 0, ON, UVLOOP, 1, 3, 1000)
    + struct.pack("<Q", 0xFEDCBA9876543210)
    + text("mysite.wsgi")
    + text("application")
    + text("/srv/mysite")
    + text("/app")
    + text("hooks:forked")
    + text("hooks:begun")
    + text("hooks:ends")
    + text("hooks:aborted")
    + text("")
    + b"\x00"  # preload: the application
    + text("/healthz?full=1")
    + text("/srv/logging.json")
    + struct.pack("<I", 2)
    + text("/srv/lib")
    + text("/srv/ü")
    + struct.pack("<I", 2)
    + text("127.0.0.1")
    + text("8000")
    + text("")
    + text("localhost")
    + text("80")
    + text("/run/rgun.sock"),
    "command-body": b"B" + struct.pack("<Q", 5),
    "command-cancel": b"F" + struct.pack("<Q", 0x1122334455667788),
    "command-stop": b"X",
    "command-stacks": b"K" + struct.pack("<Q", 0),
    "command-stacks-exchange": b"K" + struct.pack("<Q", 0x1122334455667788),
    "command-fork": b"Z" + struct.pack("<HQ", 513, 0x0102030405060708),
    "command-abort": b"A",
    "command-promote": b"P",
    "command-report-sources": b"Q",
    "command-trim-memory": b"T",
    "command-child-exited": b"C" + struct.pack("<IHQ", 4711, 513, 0x0102030405060708),
    "report-refused": b"RPython 3.8 is too old",
    "report-booting": b"b" + text("CPython 3.11.2"),
    "report-ready": b"r\x01",
    "report-ready-asgi": b"r\x02",
    "report-failed": b"f\x01"
    + text("ModuleNotFoundError: No module named 'mysite'")
    + text("Traceback\n")
    + text("ModuleNotFoundError"),
    "report-file": b"i" + struct.pack("<Q", 6),
    "report-stacks": b"k\x01",
    "report-stacks-missing": b"k\x00",
    "report-warning": b"w" + text("descriptor 7 is a socket\nof the zygote's"),
    "report-forked": b"z" + struct.pack("<QI", 0x0102030405060708, 4711),
    "report-fork-failed": b"e" + struct.pack("<Q", 9) + text("OSError: no memory"),
    "report-abort-hook-ended": b"a",
    "report-promoted": b"p",
    "report-sources": b"m" + text("/srv/mysite/views.py") + text("/srv/mysite/templates/"),
    "report-stop-requested": b"t\x0f",
    # The first bytes of the submission ring after three pushes, the second revoked.
    "ring-submission": record(READY, b"first") + record(REVOKED, b"second, longer") + record(READY, b""),
}


def main():
    """Writes all files."""
    for name, content in GOLDEN.items():
        lines = [content[at : at + 16].hex(" ") for at in range(0, len(content), 16)]
        (HERE / f"{name}.hex").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
