"""Flask-SocketIO in threading mode: WebSockets of simple-websocket, long polling otherwise."""

from flask import Flask, request
from flask_socketio import SocketIO, emit

app = Flask(__name__)
socketio = SocketIO(app, async_mode="threading", cors_allowed_origins="*")


@socketio.on("connect")
def connect():
    emit("welcome", {"transport": request.environ["QUERY_STRING"]})


@socketio.on("shout")
def shout(text):
    emit("shouted", text.upper(), broadcast=True)
    return len(text)
