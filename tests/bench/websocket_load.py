"""The WebSocket clients: the program of websocket/ as a child, and what it is told.

A Python client would measure itself. The child runs on the clients' core, holds its connections open from
`__enter__` to `__exit__`, and says what it saw; workloads.py decides what that means for the table.
"""

import contextlib
import json
import os
import select
import subprocess
import time

from process import BenchError, cpu_seconds


class WebSockets:
    """So many open WebSockets; a context manager that leaves none behind."""

    def __init__(self, program, port, connections, size=64, deflate=False, path="/"):
        """`deflate`: whether the clients offer permessage-deflate, as browsers do."""
        self.argv = [str(program), f"127.0.0.1:{port}", path, str(connections), str(size)]
        self.argv += ["deflate"] if deflate else []
        # Slow servers shake a hundred hands in a second.
        self.patience = 30 + connections / 100
        self.process = None
        self.buffer = b""
        self.deflated = 0

    def __enter__(self):
        """Opens all of them; `deflated` is how many of them agreed on permessage-deflate."""
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            self.deflated = self.answer(self.patience)["deflate"]
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        """Closes them; a client that does not end is killed."""
        self.end()

    def order(self, text, seconds=0.0):
        """Gives an order that takes `seconds`; the answer is what the clients counted."""
        # If it has ended, answer() has its words.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()
        return self.answer(seconds + self.patience)

    def echo(self, seconds):
        """A closed loop on all of them."""
        counts = self.order(f"echo {seconds}", seconds)
        if not counts["messages"]:
            raise BenchError("not one message was echoed")
        return counts

    def answer(self, patience):
        """The next line of the client, or why there is none."""
        deadline = time.monotonic() + patience
        out = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            if not select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BenchError(f"the WebSocket clients said nothing for {patience:.0f} s")
            piece = os.read(out, 65536)
            if not piece:
                self.process.wait(10)
                words = self.process.stderr.read().decode(errors="replace").strip()
                raise BenchError(f"the WebSocket clients failed: {words[-200:]}")
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def cpu_seconds(self):
        """What the clients have used of their core so far."""
        return cpu_seconds(self.process.pid)

    def end(self):
        """End of file is the order to close."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
