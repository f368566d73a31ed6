"""Prints the paths of the SQLite databases in the settings of Django and Flask-SQLAlchemy.

`rgun check` (src/daemon/check/databases.rs) runs it after the application has been imported, with the
interpreter and as the user of its workers. The paths go to standard output, each with a NUL after it; the
application's output does not.
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
            found.append(name)


def flask(application):
    """Finds the database of Flask-SQLAlchemy's setting."""
    config = getattr(application, "config", None)
    url = config.get("SQLALCHEMY_DATABASE_URI") if hasattr(config, "get") else None
    prefix = "sqlite:///"
    if isinstance(url, str) and url.startswith(prefix + "/"):
        found.append(url[len(prefix) :].partition("?")[0])


try:
    application = importlib.import_module(module)
    for name in attribute.split("."):
        application = getattr(application, name)
    if factory == "1":
        application = application()
    django()
    flask(application)
finally:
    # Exits without waiting for threads of the application.
    os.write(out, b"".join(os.fsencode(os.path.abspath(path)) + b"\0" for path in found))
    os._exit(0)
