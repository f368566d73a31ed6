"""A WSGI application that takes over the connection of a WebSocket, as flask-sock does under gunicorn.

It speaks the protocol itself, so that the machine needs no library, and echoes short messages. Other requests
get the release. Needs only Python 3.9.
"""

import base64
import hashlib
import os
import time

import release

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE = 1, 8


def application(environ, start_response):
    """Takes over handshakes; /slow/SECONDS is answered after this time."""
    if environ.get("HTTP_UPGRADE", "").lower() == "websocket":
        serve(environ["gunicorn.socket"], environ["HTTP_SEC_WEBSOCKET_KEY"])
        return []
    if environ["QUERY_STRING"].startswith("/"):
        # The query names a file that tells the test which worker runs the request.
        with open(environ["QUERY_STRING"], "w") as mark:
            mark.write(str(os.getpid()))
    if environ["PATH_INFO"].startswith("/slow/"):
        time.sleep(float(environ["PATH_INFO"][len("/slow/") :]))
    body = str(release.VERSION).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def serve(connection, key):
    """Accepts the handshake, sends the release and echoes each frame, up to a close frame."""
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    head = "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""])
    connection.sendall(head.encode())
    send(connection, TEXT, str(release.VERSION).encode())
    stream = connection.makefile("rb")
    while len(header := stream.read(2)) == 2:
        mask, payload = stream.read(4), stream.read(header[1] & 127)
        payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        send(connection, header[0] & 15, payload)
        if header[0] & 15 == CLOSE:
            print(
                f"a socket of release {release.VERSION} ended with {int.from_bytes(payload[:2], 'big')}",
                flush=True,
            )
            return


def send(connection, opcode, payload):
    """Sends a frame of at most 125 bytes."""
    connection.sendall(bytes([0x80 | opcode, len(payload)]) + payload)
