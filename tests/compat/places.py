"""A directory with an application and a configuration, in which daemons are started."""

import os
import subprocess
import textwrap

from support.daemon import environment
from support.paths import daemon_binary

APPLICATION = """
    import os

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [os.environ.get(environ["PATH_INFO"].lstrip("/"), "unset").encode()]
"""


class Place:
    """A directory with an application and a gunicorn.conf.py, and daemons started there."""

    def __init__(self, directory, python, starter=None):
        self.directory = directory
        self.python = python
        self.starter = starter
        self.write("site_wsgi.py", APPLICATION)

    def write(self, name, text):
        (self.directory / name).write_text(textwrap.dedent(text))

    def start(self, *flags, env=None):
        """Starts a daemon that serves the application."""
        return self.starter("site_wsgi", self.directory, flags, env)

    def run(self, *words, env=None, **more):
        """Runs rgun until it exits, in the directory; returns its exit status and its output.

        If it starts the application, it listens in the directory by default: other tests may do the same at
        the same time.
        """
        starts = words[0] == "site_wsgi"
        listening = {"RGUN_LISTEN_BIND": f"unix:{self.directory}/socket"} if starts else {}
        done = subprocess.run(
            [str(word) for word in (daemon_binary(), *words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            timeout=60,
            check=False,
            cwd=self.directory,
            env=environment({**listening, **(env or {})}),
            **more,
        )
        return done.returncode, done.stdout

    def refused(self, text, *flags):
        """Starts rgun with this gunicorn.conf.py, which must fail with 78; returns the output."""
        self.write("gunicorn.conf.py", text)
        status, output = self.run("site_wsgi", "--python", self.python, "-c", "gunicorn.conf.py", *flags)
        assert status == 78, output
        return output


def user_flags():
    """Returns the flags that `rgun check` needs when root runs it."""
    return ["--user", "root"] if os.geteuid() == 0 else []
