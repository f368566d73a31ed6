#!/bin/sh
set -e
export WORKERS=2
python manage.py collectstatic --noinput
# gunicorn old:app
exec poetry run gunicorn site.asgi:app -k uvicorn.workers.UvicornWorker \
    -w "$WORKERS" -b 0.0.0.0:8000 -u www-data -g www-data --umask 0o27 -c gunicorn.conf.py
