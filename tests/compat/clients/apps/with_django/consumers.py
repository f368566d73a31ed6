"""Channels consumers, async and sync, and their URLs."""

import json
import urllib.parse

from asgiref.sync import async_to_sync
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer
from django.urls import path
from ledger import SEEN


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)


class Json(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content):
        await self.send_json({"got": content})


class About(AsyncJsonWebsocketConsumer):
    async def connect(self):
        await self.accept()
        query = dict(urllib.parse.parse_qsl(self.scope["query_string"].decode()))
        token = dict(self.scope["headers"])[b"x-token"].decode()
        room = self.scope["url_route"]["kwargs"]["room"]
        await self.send_json({"room": room, "query": query, "token": token})
        await self.close()


class Protocol(AsyncJsonWebsocketConsumer):
    async def connect(self):
        offered = self.scope["subprotocols"]
        await self.accept("v2.chat" if "v2.chat" in offered else None)
        await self.send_json(offered)
        await self.close()


class Close(WebsocketConsumer):
    def receive(self, text_data=None, bytes_data=None):
        self.close(int(text_data), "as requested")


class Reject(AsyncWebsocketConsumer):
    async def connect(self):
        raise DenyConnection


class Watch(AsyncWebsocketConsumer):
    async def disconnect(self, code):
        SEEN[self.scope["url_route"]["kwargs"]["marker"]].append(code)


class Fail(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        raise ValueError("the socket fails")


class Push(AsyncWebsocketConsumer):
    async def connect(self):
        await self.accept()
        for number in range(self.scope["url_route"]["kwargs"]["count"]):
            await self.send(f"{number}")
        await self.close()


class Chat(WebsocketConsumer):
    """A chat room: a sync consumer with the session's user and a group."""

    def connect(self):
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()
        self.send(json.dumps({"you": self.scope["user"].username}))

    def receive(self, text_data=None, bytes_data=None):
        text = f"{self.scope['user'].username or 'somebody'}: {text_data}"
        async_to_sync(self.channel_layer.group_send)(self.room, {"type": "chat_message", "text": text})

    def chat_message(self, event):
        self.send(event["text"])

    def disconnect(self, code):
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)
        async_to_sync(self.channel_layer.group_send)(
            self.room, {"type": "chat_message", "text": "somebody left"}
        )


websocket_urlpatterns = [
    path("ws/echo", Echo.as_asgi()),
    path("ws/json", Json.as_asgi()),
    path("ws/about/<room>", About.as_asgi()),
    path("ws/protocol", Protocol.as_asgi()),
    path("ws/close", Close.as_asgi()),
    path("ws/reject", Reject.as_asgi()),
    path("ws/watch/<marker>", Watch.as_asgi()),
    path("ws/fail", Fail.as_asgi()),
    path("ws/push/<int:count>", Push.as_asgi()),
    path("ws/chat/<room>", Chat.as_asgi()),
]
