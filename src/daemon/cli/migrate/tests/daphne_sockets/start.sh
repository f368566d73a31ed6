#!/bin/sh
cd /srv/chat
exec daphne -u /run/daphne/chat.sock -b 0.0.0.0 -p8001 chat.asgi:application
