"""Faults and the actions of an operator during the chaos test, in random order.

Used by test_chaos.py. Each of them is called a trouble, and its time is recorded. A deploy that waits for
its reload also checks the outcome.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import host
from support.processes import children

# The number of cards of each trouble in a deck, which is shuffled and then drawn from.
DECK = {
    "kill": 4,
    "freeze": 3,
    "leak": 3,
    "hang": 1,
    "compute": 1,
    "good_reload": 2,
    "good_reload_unattended": 1,
    "broken_reload": 2,
    "sick_reload": 1,
    "wrong_configuration": 1,
    "hangup": 1,
    "restart": 1,
}
BROKEN = 'raise LookupError("a broken deploy")'
# This release boots, and fails its probe.
SICK = "import django.http\ndef sick(request): raise LookupError('a sick deploy')\nimport catalog.views\n"
SICK += "catalog.views.api_status = sick"


class Troubles:
    """Causes troubles until its time is up."""

    def __init__(self, seed, directory, clients):
        self._rng = random.Random(seed)
        self._directory = directory
        self._clients = clients
        self._frozen = {}
        self._reloads = []
        self._threads = []
        self.version = 1
        # (began, ended, name) of each trouble.
        self.notes = []

    def run(self, seconds):
        """Draws troubles for `seconds`, with pauses between them, then settles."""
        deadline = time.monotonic() + seconds
        deck = []
        while time.monotonic() < deadline:
            deck = deck or self._shuffled()
            name = deck.pop()
            began = time.monotonic()
            getattr(self, name)()
            self.notes.append((began, time.monotonic(), name))
            print(f"{time.monotonic() - deadline + seconds:6.1f} s {name}", flush=True)
            self._rest(self._rng.uniform(0.2, 1.2))
        self.settle()

    def _shuffled(self):
        deck = [name for name, count in DECK.items() for _ in range(count)]
        self._rng.shuffle(deck)
        return deck

    def _rest(self, seconds):
        """Waits, and continues frozen processes when their time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pid in [pid for pid, until in self._frozen.items() if until <= time.monotonic()]:
                self._thaw(pid)
            time.sleep(0.02)

    def settle(self):
        """Continues frozen processes, waits for all requests and reloads, and deploys a good release."""
        for pid in list(self._frozen):
            self._thaw(pid)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a troublesome request was never answered"
        for child in self._reloads:
            # A reload in the background may fail, but it must end.
            child.wait(60)
        # In the end the newest code must serve.
        self.good_reload()

    # ------------------------------------------------------------ processes

    def _victim(self):
        """Picks a child of the daemon that is not frozen: a worker in any state, or a zygote."""
        found = [pid for pid in children(host.main_pid()) if pid not in self._frozen]
        return self._rng.choice(found) if found else None

    def kill(self):
        """Kills a process, as the OOM killer does."""
        if victim := self._victim():
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    def freeze(self):
        """Stops a process for up to five seconds, as a swapping machine does."""
        if victim := self._victim():
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
                self._frozen[victim] = time.monotonic() + self._rng.uniform(0.1, 5)

    def _thaw(self, pid):
        del self._frozen[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    # ------------------------------------------------------------ requests

    def _ask(self, kind):
        name = f"trouble-{kind}-{len(self._threads)}"
        thread = threading.Thread(target=self._clients.send_one, args=(name, kind), daemon=True)
        self._threads.append(thread)
        thread.start()

    def leak(self):
        """Sends a request that leaks 15 MiB."""
        self._ask("leak")

    def hang(self):
        """Sends a request that never ends."""
        self._ask("hang")

    def compute(self):
        """Sends a request that never ends and holds the GIL."""
        self._ask("compute")

    # ------------------------------------------------------------ deploys

    def _release(self, code=""):
        self.version += 1
        host.deploy(self._directory, self.version, code)

    def good_reload(self):
        """Deploys a good release; the reload must succeed, and the new code must serve."""
        # A frozen process could make the boot time out.
        for pid in list(self._frozen):
            self._thaw(pid)
        self._release()
        host.reload()
        answer = self._clients.send_one(f"deployed-{self.version}", "version")
        assert answer.status in (200, 502, 503, 504), answer

    def good_reload_unattended(self):
        """Reloads in the background, during other troubles: the reload may fail, but must end."""
        self._release()
        command = ["systemctl", "reload", host.SERVICE]
        self._reloads.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

    def broken_reload(self, code=BROKEN):
        """Deploys a release whose reload must fail, then a good one for later starts."""
        self._release(code)
        assert host.reload(check=False).returncode != 0, f"a broken release was accepted: {code}"
        host.deploy(self._directory, self.version)

    def sick_reload(self):
        """Deploys a release that boots and fails its probe."""
        self.broken_reload(SICK)

    def wrong_configuration(self):
        """Reloads with an unknown key in the configuration, which must fail."""
        original = host.CONFIG.read_text()
        host.CONFIG.write_text(original.replace("threads = ", "treads = "))
        try:
            assert host.reload(check=False).returncode != 0, "a wrong configuration was accepted"
        finally:
            host.CONFIG.write_text(original)

    def hangup(self):
        """Reloads by SIGHUP; it may fail."""
        self._release()
        os.kill(host.main_pid(), signal.SIGHUP)

    def restart(self):
        """Restarts the service, as a package upgrade does."""
        host.restart()
