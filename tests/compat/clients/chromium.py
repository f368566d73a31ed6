"""Headless Chromium, and a page driven by the DevTools protocol."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess

import pytest
from support.waiting import DEADLINE, wait_until
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# The certificates of tests are self-signed.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--remote-debugging-port=0", "--ignore-certificate-errors"),
)


class Chromium:
    """A running browser; its log is shown when a test fails."""

    def __init__(self, home, url="about:blank"):
        """`home` is an empty directory. Skips the test if no browser is installed."""
        if CHROMIUM is None:
            pytest.skip("there is no chromium: apt-get install chromium")
        self.profile = home / "profile"
        self.log = (home / "log").open("w+")
        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={self.profile}", url],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            env={**os.environ, "HOME": str(home)},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def is_running(self):
        return self.process.poll() is None

    def output(self):
        """Returns the log so far."""
        self.log.seek(0)
        return self.log.read()

    @contextlib.contextmanager
    def page(self):
        """Yields the first page, driven by the DevTools protocol."""
        port_file = self.profile / "DevToolsActivePort"
        wait_until("Chromium listens for DevTools", lambda: port_file.exists() and port_file.read_text())
        port = int(port_file.read_text().split()[0])

        def address():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            with contextlib.closing(connection):
                connection.request("GET", "/json/list")
                targets = json.loads(connection.getresponse().read())
            pages = [target for target in targets if target["type"] == "page"]
            return pages and pages[0]["webSocketDebuggerUrl"]

        with connect(wait_until("Chromium has a page", address), max_size=None) as socket:
            yield Page(socket)


class Page:
    """A page of the browser.

    `problems` lists its errors, error responses and failed requests, and `protocols` has the HTTP version
    by URL.
    """

    def __init__(self, socket):
        self.socket = socket
        self.number = 0
        self.problems = []
        self.protocols = {}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Calls a method and returns its result; records the events that precede the result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv(DEADLINE))).get("id") != self.number:
            self.on_event(message["method"], message["params"])
        assert "error" not in message, message
        return message["result"]

    def on_event(self, method, event):
        if method == "Network.responseReceived":
            response = event["response"]
            self.protocols[response["url"]] = response.get("protocol")
            if response["status"] >= 400:
                self.problems.append(f"{response['status']} {response['url']}")
        elif method == "Network.loadingFailed" and not event.get("canceled"):
            self.problems.append(event["errorText"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(event["exceptionDetails"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.problems.append(event["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.problems.append(json.dumps(event["args"]))

    def evaluate(self, expression):
        """Evaluates JavaScript and returns the value, for a promise after it is resolved."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, url):
        """Opens a URL and waits until it is loaded."""
        self.follow(lambda: self.call("Page.navigate", url=url))

    def follow(self, action):
        """Performs an action that opens another document; waits until the document is loaded."""
        self.evaluate("window.isLeft = true")
        action()
        # While the document changes, an evaluation can fail.
        wait_until(
            "the next document is loaded",
            lambda: self.has_value("!window.isLeft && document.readyState === 'complete'"),
        )

    def has_value(self, expression):
        """Returns whether an expression is true; false while the document changes."""
        with contextlib.suppress(AssertionError):
            return bool(self.evaluate(expression))
        return False
