"""A real rgun on loopback TCP, started in the foreground as a user would, and what it has logged.

Used by the fixtures of conftest.py and by tests/asgi/autobahn. Which daemon: see tests/foreground.py.
"""

import pathlib
import re
import signal
import sys

HERE = pathlib.Path(__file__).resolve().parent
APPS = HERE / "apps"
sys.path.append(str(HERE.parent))
from foreground import DEADLINE, TOP, Foreground  # noqa: E402 (found by the line above)

__all__ = ["APPS", "DEADLINE", "HERE", "TOP", "Served"]


class Served(Foreground):
    """An application of apps/, served."""

    def __init__(self, target, *flags, env=None):
        where = ("--chdir", APPS, "--python", sys.executable, "--bind", "127.0.0.1:0", "--workers", "1")
        super().__init__(target, *where, *flags, env={"PYTHONDONTWRITEBYTECODE": "1", **(env or {})})
        try:
            self.host = re.search(r"listening on (127\.0\.0\.1:\d+)", self.wait_for("listening on"))[1]
            self.wait_for("is ready")
        except BaseException:
            self.stop()
            raise

    @property
    def url(self):
        """Its address for HTTP."""
        return f"http://{self.host}"

    @property
    def ws(self):
        """Its address for WebSockets."""
        return f"ws://{self.host}"

    def wait_for(self, text, count=1):
        """Waits until so many lines of the log contain `text`; the last of them."""
        return self.lines_with(text, count)[-1]

    def reload(self):
        """SIGHUP: the same code again, in new workers."""
        self.process.send_signal(signal.SIGHUP)

    def terminate(self):
        """SIGTERM, without waiting."""
        self.process.terminate()

    def stop(self):
        """SIGTERM, then the exit status; None if it did not go and was killed."""
        return self.end()
