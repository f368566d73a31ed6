"""What goes wrong in a chaos, and what an operator does meanwhile: a shuffled deck, drawn one by one.

Used by test_chaos.py. Each trouble leaves a note of when it was; a deploy that is waited for asserts its own
outcome.
"""

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import host

# How often each is in the deck.
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
# The probe asks for it, so that this release boots and is refused nevertheless.
SICK = "import django.http\ndef sick(request): raise LookupError('a sick deploy')\nimport catalog.views\n"
SICK += "catalog.views.api_status = sick"


class Troubles:
    """Makes them, until its time is over."""

    def __init__(self, seed, directory, clients):
        self._chance = random.Random(seed)
        self._directory = directory
        self._clients = clients
        self._frozen = {}
        self._asked = []
        self._threads = []
        self.version = 1
        # What was done: (began, ended, name).
        self.notes = []

    def make(self, seconds):
        """Draw, do, pause, until that many seconds are over."""
        deadline = time.monotonic() + seconds
        deck = []
        while time.monotonic() < deadline:
            deck = deck or self._shuffled()
            name = deck.pop()
            began = time.monotonic()
            getattr(self, name)()
            self.notes.append((began, time.monotonic(), name))
            print(f"{time.monotonic() - deadline + seconds:6.1f} s {name}", flush=True)
            self._rest(self._chance.uniform(0.2, 1.2))
        self.settle()

    def _shuffled(self):
        deck = [name for name, count in DECK.items() for _ in range(count)]
        self._chance.shuffle(deck)
        return deck

    def _rest(self, seconds):
        """Wait, and let those go on whose time has come."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for pid in [pid for pid, until in self._frozen.items() if until <= time.monotonic()]:
                self._thaw(pid)
            time.sleep(0.02)

    def settle(self):
        """Everybody goes on, everybody is answered."""
        for pid in list(self._frozen):
            self._thaw(pid)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a troublesome request was never answered"
        for child in self._asked:
            # Whatever came of a reload that nobody waited for, and whatever troubled it: it ends.
            child.wait(60)
        # One sound deploy: after all this, the newest code is what serves.
        self.good_reload()

    # ------------------------------------------------------------ processes

    def _victim(self):
        """A child of the daemon: a worker of any generation, booting or serving, or a zygote."""
        found = [pid for pid in host.children(host.main_pid()) if pid not in self._frozen]
        return self._chance.choice(found) if found else None

    def kill(self):
        """As the kernel's OOM killer or an impatient operator does."""
        if victim := self._victim():
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)

    def freeze(self):
        """Like a machine that swaps: it stands still, and later goes on where it was."""
        if victim := self._victim():
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGSTOP)
                self._frozen[victim] = time.monotonic() + self._chance.uniform(0.1, 5)

    def _thaw(self, pid):
        del self._frozen[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    # ------------------------------------------------------------ requests

    def _ask(self, kind):
        name = f"trouble-{kind}-{len(self._threads)}"
        thread = threading.Thread(target=self._clients.once, args=(name, kind), daemon=True)
        self._threads.append(thread)
        thread.start()

    def leak(self):
        """A request that leaves 15 MiB behind."""
        self._ask("leak")

    def hang(self):
        """A request that never ends."""
        self._ask("hang")

    def compute(self):
        """A request that never ends and lets nobody else in its process do anything."""
        self._ask("compute")

    # ------------------------------------------------------------ deploys

    def _release(self, code=""):
        self.version += 1
        host.release(self._directory, self.version, code)

    def good_reload(self):
        """Must succeed, and its code is what answers from then on."""
        # A boot that stands still is another matter.
        for pid in list(self._frozen):
            self._thaw(pid)
        self._release()
        host.reload()
        answer = self._clients.once(f"deployed-{self.version}", "version")
        assert answer.status in (200, 502, 503, 504), answer

    def good_reload_unattended(self):
        """Troubles go on while it runs: it may fail, but it ends."""
        self._release()
        command = ["systemctl", "reload", host.SERVICE]
        self._asked.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))

    def broken_reload(self, code=BROKEN):
        """Must fail, and leave a sound release for whoever starts next."""
        self._release(code)
        assert host.reload(check=False).returncode != 0, f"a broken release was accepted: {code}"
        host.release(self._directory, self.version)

    def sick_reload(self):
        """Boots, and fails its probe."""
        self.broken_reload(SICK)

    def wrong_configuration(self):
        """A key that does not exist."""
        sound = host.CONFIG.read_text()
        host.CONFIG.write_text(sound.replace("threads = ", "treads = "))
        try:
            assert host.reload(check=False).returncode != 0, "a wrong configuration was accepted"
        finally:
            host.CONFIG.write_text(sound)

    def hangup(self):
        """SIGHUP, and whatever comes of it."""
        self._release()
        os.kill(host.main_pid(), signal.SIGHUP)

    def restart(self):
        """What an upgrade of the package does."""
        host.restart()
