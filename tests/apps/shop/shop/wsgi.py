"""The WSGI entry point: `shop.wsgi` is the target to give a server.

StaticFilesHandler answers /static/ from the installed packages, so that the admin has its styles with nothing
but Django installed and without collectstatic. A real site leaves that to whitenoise or to the server.
"""

import os

from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

application = StaticFilesHandler(get_wsgi_application())
