"""Reads one deployment: the header, the files, and what they are expected to become.

    Netbox behind nginx                     what it is
    start: unit /etc/systemd/system/a.service
    app: wsgi /opt/a/a/wsgi.py application
    port: 8001
    -- /opt/a/gunicorn.py --                a file
    workers = 5
    == expected ==                          the snapshot

Keys of the header:

    start    the kind of the file that holds the command (see command.py), and its path; or `command` and the
             command; or `migrate`, if only `rgun migrate` knows the server
    app      wsgi or asgi, the module to write, the application's name in it, and `factory` for a function
    port     the TCP port of the files; replaced by a free one. With `default`, the files name none
    socket   the unix socket of the files
    https    yes: the files name a certificate, which is made
    venv     the application's virtual environment; without it, its Python is /usr/local/bin/python3
    rgun     where rgun is installed; without it, /usr/bin/rgun, and the command has no directory
    in       the working directory, unless the file says it
    env      NAME=value, set by the platform or the operator; may be repeated
    migrate  the files to pass to `rgun migrate`; `command`, the default, is a script with the command
"""

import pathlib
import re

MARK = "== expected ==\n"
FILE = re.compile(r"^-- (/\S+) --\n", re.M)
KEYS = {"start", "app", "port", "socket", "https", "venv", "rgun", "in", "env", "migrate"}


class Deployment:
    """A deployment as it is written down, with the paths of its own machine."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.input, mark, self.expected = self.path.read_text(encoding="utf-8").partition(MARK)
        assert mark, f"{path}: the line {MARK!r} is missing"
        header, *parts = FILE.split(self.input)
        self.files = dict(zip(parts[::2], parts[1::2], strict=True))
        self.env = {}
        self.values = {}
        for line in header.splitlines()[1:]:
            key, _, value = line.partition(": ")
            assert key in KEYS, f"{path}: no key is called {key!r}"
            if key == "env":
                name, _, value = value.partition("=")
                self.env[name] = value
            else:
                self.values[key] = value
        self.kind, _, self.start = self.values["start"].partition(" ")
        self.interface, self.module, self.attribute, *more = self.values["app"].split()
        self.is_factory = more == ["factory"]
        self.port, _, more = self.values.get("port", "").partition(" ")
        self.is_default_port = more == "default"
        self.name = self.path.stem
        self.socket = self.values.get("socket")
        self.venv = self.values.get("venv")
        self.rgun = self.values.get("rgun")
        self.directory = self.values.get("in", "/")
        own = self.start if self.kind == "script" else "command"
        self.migrated_files = self.values.get("migrate", own).split()

    def target(self):
        """Returns the name by which Python imports the application."""
        path = pathlib.PurePath(self.module.replace("/__init__.py", ".py")).with_suffix("")
        module = ".".join(path.relative_to(self.directory).parts)
        return f"{module}:{self.attribute}{'()' if self.is_factory else ''}"

    def write_expected(self, text):
        """Replaces the snapshot."""
        self.path.write_text(self.input + MARK + text, encoding="utf-8")
