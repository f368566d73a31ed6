"""A real rgun on loopback TCP, started in the foreground as a user would, and what it has logged.

Used by the fixtures of conftest.py and by tests/asgi/autobahn. RGUN_BUILD_DIR is where the daemon and the
extension are (RGUN_BIN names the daemon alone), else target/{release,fast,debug}.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
APPS = HERE / "apps"
# Nothing here takes seconds; the machine may be busy.
DEADLINE = 30


def daemon():
    """The binary under test."""
    if os.environ.get("RGUN_BIN"):
        return pathlib.Path(os.environ["RGUN_BIN"])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target"))
    found = [target / profile for profile in ("release", "fast", "debug")]
    if os.environ.get("RGUN_BUILD_DIR"):
        found = [pathlib.Path(os.environ["RGUN_BUILD_DIR"])]
    for directory in found:
        if (directory / "rgun").exists() and (directory / "rgun_worker.abi3.so").exists():
            return directory / "rgun"
    raise FileNotFoundError(
        f"no rgun with rgun_worker.abi3.so beside it in {', '.join(map(str, found))}: run `make build`"
    )


class Served:
    """An application of apps/, served."""

    def __init__(self, target, *flags, env=None):
        self.lines = []
        self.news = threading.Condition()
        bind = ("--bind", "127.0.0.1:0", "--workers", "1")
        command = [daemon(), target, "--chdir", APPS, "--python", sys.executable, *bind, *flags]
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            env={**os.environ, "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
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

    def read(self):
        """Collects the log."""
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        with self.news:
            self.lines.append(None)
            self.news.notify_all()

    def log(self):
        """All of it so far."""
        with self.news:
            return "\n".join(line for line in self.lines if line is not None)

    def wait_for(self, text, count=1):
        """Waits until so many lines of the log contain `text`; the last of them."""
        with self.news:
            found = []

            def there():
                found[:] = [line for line in self.lines if line is not None and text in line]
                return len(found) >= count or (self.lines and self.lines[-1] is None)

            self.news.wait_for(there, timeout=DEADLINE)
        assert len(found) >= count, f"{len(found)} lines with {text!r}, not {count}, in\n{self.log()}"
        return found[-1]

    def reload(self):
        """SIGHUP: the same code again, in new workers."""
        self.process.send_signal(signal.SIGHUP)

    def terminate(self):
        """SIGTERM, without waiting."""
        self.process.terminate()

    def stop(self):
        """SIGTERM, then the exit status; killed if it does not go."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
        finally:
            self.reader.join(DEADLINE)
            self.process.stdout.close()
