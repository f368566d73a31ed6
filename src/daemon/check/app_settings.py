"""Prints the SQLite databases of Django and Flask-SQLAlchemy, and Django's STATIC_URL and STATIC_ROOT.

`rgun check` (src/daemon/check/app_settings.rs) runs this script after the application has been imported,
with the interpreter and as the user of its workers. Each value goes to standard output as NAME=VALUE
and a NUL. The names are "database", "static_url" and "static_root"; the last two are printed only if the
application does not serve its static files. The application's own output goes to standard error.
"""

import importlib
import os
import sys

out = os.dup(1)
os.dup2(2, 1)
module, attribute, factory = sys.argv[1:4]
sys.path[:1] = sys.argv[4:]
del sys.argv[1:]

found = []


def django():
    """Finds the databases of Django's settings."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return
    for database in conf.settings.DATABASES.values():
        engine, name = database.get("ENGINE", ""), str(database.get("NAME") or "")
        # A URI is skipped, because it may open the database read-only.
        if engine.endswith(("sqlite3", "spatialite")) and name and not name.startswith((":memory:", "file:")):
            found.append(("database", os.path.abspath(name)))


def django_static(application):
    """Finds the URL of Django's static files, unless the application serves its static files."""
    conf = sys.modules.get("django.conf")
    if conf is None or not conf.settings.configured:
        return
    settings = conf.settings
    url = settings.STATIC_URL
    if "django.contrib.staticfiles" not in settings.INSTALLED_APPS or not str(url or "").startswith("/"):
        return
    servers = ("whitenoise", "servestatic", "dj_static", "django.contrib.staticfiles.handlers")
    layers = [*settings.MIDDLEWARE, type(application).__module__]
    if any(layer.startswith(servers) for layer in layers) or is_view(str(url)):
        return
    found.append(("static_url", str(url)))
    if settings.STATIC_ROOT:
        found.append(("static_root", os.path.abspath(settings.STATIC_ROOT)))


def is_view(url):
    """Returns True if a view of Django itself serves the URL; `urlpatterns` may add it for DEBUG."""
    from django.urls import Resolver404, resolve

    try:
        view = resolve(url + "a").func
    except Resolver404:
        return False
    return view.__module__ in ("django.views.static", "django.contrib.staticfiles.views")


def flask(application):
    """Finds the database in the setting of Flask-SQLAlchemy."""
    config = getattr(application, "config", None)
    url = config.get("SQLALCHEMY_DATABASE_URI") if hasattr(config, "get") else None
    prefix = "sqlite:///"
    if isinstance(url, str) and url.startswith(prefix + "/"):
        found.append(("database", os.path.abspath(url[len(prefix) :].partition("?")[0])))


try:
    application = importlib.import_module(module)
    for name in attribute.split("."):
        application = getattr(application, name)
    if factory == "1":
        application = application()
    django()
    flask(application)
    django_static(application)
finally:
    # Exits without waiting for threads of the application.
    os.write(out, b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in found))
    os._exit(0)
