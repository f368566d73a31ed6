"""The ASGI entry point, `shop.asgi`. It serves static files for the same reason as wsgi.py."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

application = ASGIStaticFilesHandler(get_asgi_application())
