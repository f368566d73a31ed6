"""WSGI applications that take over the connection by flask-sock, simple-websocket or hand."""

import base64
import hashlib
import json
import os
import threading
import time

from flask import Flask, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server

flask = Flask(__name__)
sock = Sock(flask)
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# The messages that handlers have recorded, by marker.
SEEN = {}
LOCK = threading.Lock()


def record(marker, entry):
    with LOCK:
        SEEN.setdefault(marker, []).append(entry)


@flask.get("/seen/<marker>")
def seen(marker):
    with LOCK:
        return SEEN.get(marker, [])


@flask.get("/pid")
def pid():
    return str(os.getpid())


@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())


@sock.route("/once")
def once(ws):
    ws.send(ws.receive())


@sock.route("/immediate")
def immediate(ws):
    ws.send("bye")


@sock.route("/close/<int:code>")
def close(ws, code):
    ws.close(code, "as requested")


@sock.route("/record/<marker>")
def recorded(ws, marker):
    record(marker, "open")
    try:
        while True:
            ws.receive()
    except ConnectionClosed as closed:
        record(marker, int(closed.reason))
        raise


@sock.route("/raise")
def fail(ws):
    ws.send(ws.receive())
    raise ValueError("the handler fails")


@sock.route("/flood/<int:count>/<int:size>")
def flood(ws, count, size):
    for number in range(count):
        ws.send(number.to_bytes(4, "big") * (size // 4))
    ws.receive()


@sock.route("/sum")
def total(ws):
    digest = hashlib.sha256()
    while (message := ws.receive()) != "end":
        digest.update(message)
    ws.send(digest.hexdigest())


@sock.route("/sleep/<float:seconds>")
def sleep(ws, seconds):
    ws.send("asleep")
    time.sleep(seconds)
    ws.send("awake")


@flask.route("/simple", websocket=True)
def simple():
    """Uses simple-websocket without flask-sock, with a subprotocol."""
    ws = Server.accept(request.environ, subprotocols=["chat"])
    ws.send(f"{ws.mode} {ws.subprotocol}")
    ws.close()
    return ""


def accept(environ):
    """Writes the 101 by hand and returns the socket."""
    key = environ["HTTP_SEC_WEBSOCKET_KEY"] + GUID
    answer = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    head = "\r\n".join([*lines, f"Sec-WebSocket-Accept: {answer}", "X-By: hand", "", ""])
    connection = environ["gunicorn.socket"]
    connection.sendall(head.encode())
    return connection


# Sockets that the application never closes.
KEPT = []


def close_after_return(connection):
    """Sends a close frame after the application has returned, which ends the thread's input."""
    while connection.recv(65536):
        pass
    connection.sendall(b"\x88\x02" + (4321).to_bytes(2, "big"))


REJECTIONS = {
    "length": b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nContent-Length: 5\r\n\r\nno!!!",
    "chunked": b"HTTP/1.1 403 Forbidden\r\nX-Why: no\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nno!!!\r\n0\r\n\r\n",
    "close": b"HTTP/1.0 403 Forbidden\r\nX-Why: no\r\nConnection: close\r\n\r\nno!!!",
    "nonsense": b"\x00\x01\x02 this is not HTTP",
    "half": b"HTTP/1.1 101 Switching Proto",
}


# The results of applications that do not call start_response(), as Werkzeug's server allows.
WITHOUT_RESPONSE = {"list": list, "tuple": tuple, "generator": lambda: iter(())}


def by_hand(environ, start_response):
    """Answers each path without a library."""
    _, _, case, argument = environ["PATH_INFO"].split("/", 3)
    if case == "reject":
        environ["werkzeug.socket"].sendall(REJECTIONS[argument])
        start_response("500 Not Seen", [])
        return [b"not seen"]
    if case == "environ":
        sockets = {key: type(value).__name__ for key, value in environ.items() if key.endswith(".socket")}
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(sockets).encode()]
    if case == "silent":
        return WITHOUT_RESPONSE[argument]()
    if case == "ignore":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"plain ", argument.encode()]
    if case == "raise":
        raise {"stop": StopIteration, "gone": ConnectionError, "value": ValueError}[argument]("by hand")
    connection = accept(environ)
    if case == "accepted":
        # Frameworks end the request in these ways.
        connection.sendall(b"\x81\x02hi\x88\x02\x03\xe8")
        if argument == "response":
            start_response("200 OK", [])
            return [b"x" * 1_000_000]
        if argument in WITHOUT_RESPONSE:
            return WITHOUT_RESPONSE[argument]()
        raise {"stop": StopIteration, "gone": ConnectionError, "value": ValueError}[argument]("by hand")
    if case == "raw":
        # Bytes that are not frames, in both directions, until the client ends.
        while data := connection.recv(65536):
            connection.sendall(data.upper())
        connection.sendall(b"END")
        return []
    if case == "detach":
        os.close(connection.detach())
        return []
    if case == "thread":
        threading.Thread(target=close_after_return, args=[connection], daemon=True).start()
        return []
    if case == "keep":
        KEPT.append(connection)
        return []
    raise AssertionError(case)


def application(environ, start_response):
    """Answers paths below /hand without a library, and all others by Flask."""
    if environ["PATH_INFO"].startswith("/hand/"):
        return by_hand(environ, start_response)
    return flask(environ, start_response)
