"""The WebSocket clients: the program in websocket/ as a child process, and its commands.

A client in Python would measure itself. The child runs on the clients' core, keeps its connections open from
`__enter__` to `__exit__`, and replies with counts.
"""

import contextlib
import json
import os
import select
import subprocess
import time

from process import BenchError, cpu_seconds


class WebSockets:
    """Open WebSockets; a context manager that closes them."""

    def __init__(self, program, port, connections, size=64, deflate=False, path="/"):
        """`deflate`: whether the clients offer permessage-deflate, as browsers do."""
        self.argv = [str(program), f"127.0.0.1:{port}", path, str(connections), str(size)]
        self.argv += ["deflate"] if deflate else []
        # Slow servers accept a hundred handshakes per second.
        self.timeout = 30 + connections / 100
        self.process = None
        self.buffer = b""
        self.deflated = 0

    def __enter__(self):
        """Opens all WebSockets; `deflated` is the number of those with permessage-deflate."""
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            self.deflated = self.answer(self.timeout)["deflate"]
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        """Closes all WebSockets."""
        self.end()

    def command(self, text, seconds=0.0):
        """Sends a command that takes `seconds`; returns the clients' counts."""
        # If the program has ended, answer() raises with its message.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()
        return self.answer(seconds + self.timeout)

    def echo(self, seconds):
        """Runs a closed loop on all WebSockets."""
        counts = self.command(f"echo {seconds}", seconds)
        if not counts["messages"]:
            raise BenchError("not one message was echoed")
        return counts

    def answer(self, timeout):
        """Returns the next reply of the clients; raises if there is none."""
        deadline = time.monotonic() + timeout
        out = self.process.stdout.fileno()
        while b"\n" not in self.buffer:
            if not select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise BenchError(f"the WebSocket clients sent nothing for {timeout:.0f} s")
            piece = os.read(out, 65536)
            if not piece:
                self.process.wait(10)
                words = self.process.stderr.read().decode(errors="replace").strip()
                raise BenchError(f"the WebSocket clients failed: {words[-200:]}")
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)

    def cpu_seconds(self):
        """Returns the CPU time of the clients."""
        return cpu_seconds(self.process.pid)

    def end(self):
        """Closes the WebSockets by an end of file; kills the program if it does not exit."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()
