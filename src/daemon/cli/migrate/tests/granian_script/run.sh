#!/bin/bash
DEBUG=0 /opt/app/.venv/bin/granian --interface asgi --host 0.0.0.0 --port 8000 --workers 2 --workers-max-rss 400 \
  --workers-lifetime 3600 --backpressure 64 --runtime-threads 2 --reload main:app
