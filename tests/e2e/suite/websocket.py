"""A WebSocket client of forty lines (RFC 6455), for a machine on which nothing can be installed."""

import base64
import os
import socket
import struct
import threading

import host

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class WebSocket:
    """One connection; reads whole, unfragmented frames."""

    def __init__(self, path="/", timeout=30.0, address=host.ADDRESS):
        self.socket = socket.create_connection(address, timeout=timeout)
        key = base64.b64encode(os.urandom(16)).decode()
        fields = f"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}"
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{fields}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self.received = b""
        while b"\r\n\r\n" not in self.received:
            self.more()
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        self.status = int(head.split()[1])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.socket.close()

    def more(self):
        piece = self.socket.recv(65536)
        if not piece:
            raise ConnectionError("the connection ended without a close frame")
        self.received += piece

    def take(self, length):
        while len(self.received) < length:
            self.more()
        taken, self.received = self.received[:length], self.received[length:]
        return taken

    def frame(self):
        """The next frame: opcode and payload. Pings are answered and passed over."""
        while True:
            opcode, length = self.take(2)
            if length == 126:
                (length,) = struct.unpack(">H", self.take(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.take(8))
            payload = self.take(length)
            if opcode & 15 != PING:
                return opcode & 15, payload
            self.send(payload, PONG)

    def send(self, payload, opcode=TEXT):
        """A short frame; the mask is zero, which changes nothing."""
        payload = payload.encode() if isinstance(payload, str) else payload
        assert len(payload) < 126
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)

    def text(self):
        """The next message."""
        opcode, payload = self.frame()
        assert opcode == TEXT, (opcode, payload)
        return payload.decode()

    def closed(self):
        """Waits for the close frame, answers it, and gives its code."""
        opcode, payload = self.frame()
        assert opcode == CLOSE, (opcode, payload)
        self.send(payload[:2], CLOSE)
        return struct.unpack(">H", payload[:2])[0]


def closings(sockets):
    """Waits for the close frame of each in a thread of its own; returns a function that gives their codes."""
    codes = []
    threads = [
        threading.Thread(target=lambda socket=socket: codes.append(socket.closed()), daemon=True)
        for socket in sockets
    ]
    for thread in threads:
        thread.start()

    def ended(seconds):
        for thread in threads:
            thread.join(seconds)
        return codes

    return ended
