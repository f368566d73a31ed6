"""Applications that name a file and announce its length, as views written for nginx do."""

import os
from pathlib import Path

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from flask import Flask, send_file

FILE = Path(os.environ["SENT_FILE"])

flask = Flask(__name__)
flask.config["USE_X_SENDFILE"] = True


@flask.route("/file")
def file():
    """Returns an empty body with the file's length and its path in X-Sendfile."""
    return send_file(FILE, mimetype="text/plain", conditional=True)


settings.configure(
    SECRET_KEY="for tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[], LOGGING_CONFIG=None
)


def redirect(request):
    """Returns the response that django-sendfile2 makes with its nginx backend."""
    response = HttpResponse(content_type="text/plain")
    response["X-Accel-Redirect"] = f"/protected/{FILE.name}"
    response["Content-Length"] = FILE.stat().st_size
    return response


def short(request):
    """Returns an empty body with a Content-Length of 5, and names no file."""
    return HttpResponse(headers={"Content-Length": "5"})


urlpatterns = [path("file", redirect), path("short", short)]
django = get_wsgi_application()
django_asgi = get_asgi_application()
