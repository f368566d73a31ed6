#!/bin/sh
cd /srv/wiki
exec uwsgi --http-socket 0.0.0.0:8080 --wsgi-file wiki.py --callable app -p 4 --threads=2 -M --die-on-term -H venv --uid www-data --static-map /static=/srv/wiki/static
