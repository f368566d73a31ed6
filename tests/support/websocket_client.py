"""A small WebSocket client (RFC 6455), for machines on which nothing can be installed."""

import base64
import os
import struct
import threading

from .http_client import Connection
from .waiting import DEADLINE

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocket:
    """One WebSocket connection; reads whole, unfragmented messages."""

    def __init__(self, address, path="/", timeout=DEADLINE):
        self.connection = Connection(address, timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        fields = f"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}"
        self.connection.send(f"GET {path} HTTP/1.1\r\n{fields}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.status, _ = self.connection.head()
        if self.status is None:
            raise ConnectionError("the connection ended during the handshake")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the connection without a close frame."""
        self.connection.close()

    def read(self, length):
        """Returns that many bytes."""
        data = self.connection.read_exactly(length)
        if len(data) < length:
            raise ConnectionError("the connection ended without a close frame")
        return data

    def read_frame(self):
        """Returns opcode and payload of the next frame; answers pings and skips them."""
        while True:
            opcode, length = self.read(2)
            if length == 126:
                (length,) = struct.unpack(">H", self.read(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.read(8))
            payload = self.read(length)
            if opcode & 15 != PING:
                return opcode & 15, payload
            self.send(payload, PONG)

    def send(self, payload, opcode=TEXT):
        """Sends a frame of at most 125 bytes; its mask is zero, which changes nothing."""
        payload = payload.encode() if isinstance(payload, str) else payload
        assert len(payload) < 126
        self.connection.send(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def read_text(self):
        """Returns the next message, which must be a text."""
        opcode, payload = self.read_frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    def wait_for_close(self):
        """Waits for the server's close frame, answers it, and returns its code."""
        opcode, payload = self.read_frame()
        assert opcode == CLOSE, (opcode, payload)
        self.send(payload[:2], CLOSE)
        return struct.unpack(">H", payload[:2])[0]


def collect_close_codes(sockets):
    """Waits for the close frame of each WebSocket on its own thread.

    Returns a function that waits for all of them, `timeout` seconds each, and returns their codes.
    """
    codes = []
    threads = [
        threading.Thread(target=lambda socket=socket: codes.append(socket.wait_for_close()), daemon=True)
        for socket in sockets
    ]
    for thread in threads:
        thread.start()

    def result(timeout):
        for thread in threads:
            thread.join(timeout)
        return codes

    return result
