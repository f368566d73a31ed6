"""Reads one deployment: its header, its files, and the snapshot of the expected result.

    Netbox behind nginx                     the title
    start: unit /etc/systemd/system/a.service
    app: wsgi /opt/a/a/wsgi.py application
    port: 8001
    -- /opt/a/gunicorn.py --                a file
    workers = 5
    == expected ==                          the snapshot

Keys of the header:

    start    the kind of the file that holds the command (`script`, or a kind in command.py), and its path;
             or `command` and the command; or `migrate`, if only `rgun migrate` knows the server
    app      wsgi or asgi, the module to write, the application's name, and `factory` if that is a factory
    port     the TCP port in the files, replaced by a free one; followed by `default` if no file names it
    socket   the unix socket in the files
    https    `yes` if the files name a certificate, which is then made
    venv     the application's virtual environment; without it, its Python is /usr/local/bin/python3
    rgun     the path of rgun in the command; without it, the command names `rgun`, which is /usr/bin/rgun
    in       the working directory, unless the file names one
    env      NAME=value, set by the platform or the operator; may be repeated
    migrate  the files to pass to `rgun migrate`; `command` is a script that is written with the command.
             The default is the file of a `script`, else `command`
"""

import pathlib
import re

MARK = "== expected ==\n"
FILE = re.compile(r"^-- (/\S+) --\n", re.M)
KEYS = {"start", "app", "port", "socket", "https", "venv", "rgun", "in", "env", "migrate"}


class Deployment:
    """A deployment as its file describes it, with the original paths and port."""

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
        default = self.start if self.kind == "script" else "command"
        self.migrated_files = self.values.get("migrate", default).split()

    def target(self):
        """Returns the name by which Python imports the application."""
        path = pathlib.PurePath(self.module.replace("/__init__.py", ".py")).with_suffix("")
        module = ".".join(path.relative_to(self.directory).parts)
        return f"{module}:{self.attribute}{'()' if self.is_factory else ''}"

    def write_expected(self, text):
        """Replaces the snapshot."""
        self.path.write_text(self.input + MARK + text, encoding="utf-8")
