"""Units and commands of five widely read guides, word for word, but `rgun` replaces the server's path."""

# DigitalOcean, How To Set Up Django with Postgres, Nginx, and Gunicorn.
DJANGO_SOCKET = """
[Unit]
Description=gunicorn socket

[Socket]
ListenStream=/run/gunicorn.sock

[Install]
WantedBy=sockets.target
"""
DJANGO_SERVICE = """
[Unit]
Description=gunicorn daemon
Requires=gunicorn.socket
After=network.target

[Service]
User=sammy
Group=www-data
WorkingDirectory=/home/sammy/myprojectdir
ExecStart={server} \\
          --access-logfile - \\
          --workers 3 \\
          --bind unix:/run/gunicorn.sock \\
          myproject.wsgi:application

[Install]
WantedBy=multi-user.target
"""
DJANGO_PEER = "/home/sammy/myprojectdir/myprojectenv/bin/gunicorn"

# gunicorn's documentation, Deploying Gunicorn, Systemd.
NOTIFY_SOCKET = """
[Unit]
Description=gunicorn socket

[Socket]
ListenStream=/run/gunicorn.sock
SocketUser=www-data
SocketGroup=www-data
SocketMode=0660

[Install]
WantedBy=sockets.target
"""
NOTIFY_SERVICE = """
[Unit]
Description=gunicorn daemon
Requires=gunicorn.socket
After=network.target

[Service]
Type=notify
NotifyAccess=main
User=someuser
Group=someuser
RuntimeDirectory=gunicorn
WorkingDirectory=/home/someuser/applicationroot
ExecStart=rgun applicationname.wsgi
ExecReload=/bin/kill -s HUP $MAINPID
KillMode=mixed
TimeoutStopSec=5
PrivateTmp=true

[Install]
WantedBy=multi-user.target
"""

# FastAPI with uvicorn, as most guides write the unit.
FASTAPI_SERVICE = """
[Unit]
Description=FastAPI application
After=network.target

[Service]
Type=simple
User=www-data
Group=www-data
WorkingDirectory=/srv/api
Environment="PATH=/srv/api/venv/bin"
ExecStart=rgun app.main:app --host 127.0.0.1 --port 8000 --workers 2 --proxy-headers
Restart=always

[Install]
WantedBy=multi-user.target
"""

# Flask on a unix socket in RuntimeDirectory=, after DigitalOcean's guide, which sets the umask by a flag.
FLASK_SERVICE = """
[Unit]
Description=Gunicorn instance to serve myproject
After=network.target

[Service]
User=sammy
Group=www-data
RuntimeDirectory=myproject
WorkingDirectory=/home/sammy/myproject
Environment="PATH=/home/sammy/myproject/myprojectenv/bin"
ExecStart=rgun --workers 3 --bind unix:/run/myproject/myproject.sock {umask} wsgi:app

[Install]
WantedBy=multi-user.target
"""

# Uvicorn's documentation, Deployment, Running behind Nginx: a unix socket in /tmp.
UVICORN_SERVICE = """
[Unit]
Description=uvicorn

[Service]
User=www-data
WorkingDirectory=/srv/example
ExecStart=rgun --uds /tmp/uvicorn.sock --proxy-headers example:app

[Install]
WantedBy=multi-user.target
"""

# Both guides' nginx, in a configuration of its own.
NGINX = """
user www-data;
pid /run/guide-nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:8080;
        location / {{
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_pass http://unix:{socket};
        }}
    }}
}}
"""

# Stand-ins for Flask and FastAPI, which the machine does not have: they describe their process.
WSGI = """
import json, os, sys
import release

def {name}(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    facts = {{"release": release.VERSION, "uid": os.getuid(), "directory": os.getcwd(), "prefix": sys.prefix,
             "client": environ["REMOTE_ADDR"]}}
    return [json.dumps(facts).encode()]
"""
ASGI = """
import json, os, sys

async def app(scope, receive, send):
    assert scope["type"] == "http"
    facts = {"uid": os.getuid(), "directory": os.getcwd(), "prefix": sys.prefix, "client": scope["client"][0]}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(facts).encode()})
"""
# A view for a new Django project.
DJANGO_URLS = """
import os, sys
from django.http import JsonResponse
from django.urls import path
import release

def facts(request):
    return JsonResponse({"release": release.VERSION, "uid": os.getuid(), "directory": os.getcwd(),
                         "prefix": sys.prefix, "client": request.META["REMOTE_ADDR"]})

urlpatterns = [path("", facts)]
"""
