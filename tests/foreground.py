"""A real rgun in the foreground, as a user would start it, and its log; for tests/worker and tests/asgi.

RGUN_BUILD_DIR is where the daemon and the extension are (RGUN_BIN names the daemon alone), else
target/{release,fast,debug}.
"""

import os
import pathlib
import subprocess
import threading

TOP = pathlib.Path(__file__).resolve().parent.parent
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


class Foreground:
    """A running daemon and its log."""

    def __init__(self, *arguments, env):
        self.lines = []
        self.news = threading.Condition()
        self.process = subprocess.Popen(
            [str(word) for word in (daemon(), *arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            env={**os.environ, "NO_COLOR": "1", **env},
        )
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

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

    def lines_with(self, text, count=1):
        """Waits until so many lines of the log contain `text`; these, and more if there are."""
        with self.news:
            found = []

            def there():
                found[:] = [line for line in self.lines if line is not None and text in line]
                return len(found) >= count or (self.lines and self.lines[-1] is None)

            self.news.wait_for(there, timeout=DEADLINE)
        assert len(found) >= count, f"{len(found)} lines with {text!r}, not {count}, in\n{self.log()}"
        return found

    def end(self):
        """SIGTERM, then the exit status; None if it did not go and was killed."""
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
