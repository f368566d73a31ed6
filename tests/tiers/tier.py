"""The results of one tier."""

import concurrent.futures
import os
import time

from tiers.commands import run_quietly, stream
from tiers.counts import failures

# Test runners that run at the same time; their tests wait half of the time.
JOBS = int(os.environ.get("RGUN_TEST_JOBS") or 2 * (os.cpu_count() or 1))


class Tier:
    """The results of one tier: counts, duration, failures, and the summary lines of its runners."""

    def __init__(self, name):
        self.name = name
        self.passed = self.failed = self.skipped = 0
        self.closing = []
        self.failures = []
        self.began = time.monotonic()
        self.seconds = 0.0
        print(f"\n======== {name}", flush=True)

    def check(self, what, *command, **environment):
        """Runs a command that must succeed; it counts as one test."""
        code, _ = stream(command, environment)
        self.verdict(what, code == 0)

    def verdict(self, what, good, why=""):
        """Records a check as one test."""
        print(f"{'PASS' if good else 'FAIL'} {what}{': ' + why if why else ''}", flush=True)
        self.passed += good
        self.failed += not good
        if not good:
            self.closing.append(f"FAIL {what}")

    def skip(self, what, why):
        """Records a skipped check; the summary repeats it."""
        line = f"SKIPPED {what}: {why}"
        print(line, flush=True)
        self.closing.append(line)
        self.skipped += 1

    def runner(self, what, command, environment, closing, count):
        """Runs a test runner and adds its results."""
        code, lines = stream(command, environment)
        self.add(what, code, lines, closing, count)

    def add(self, what, code, lines, closing, count):
        """Adds a test runner's results; a failure without a summary line counts as one failed test."""
        found = [line for line in lines if closing.search(line)]
        passed, failed, skipped = count(found)
        if code != 0 and failed == 0:
            failed = 1
            found.append(f"FAIL {what}: exit {code}")
        elif code == 0 and passed + failed + skipped == 0:
            failed = 1
            found.append(f"FAIL {what}: no test ran")
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        self.closing += found
        if failed:
            self.failures += [f"-- {what}", *failures(lines)]

    def runners(self, jobs, closing, count, at_once=JOBS):
        """Runs several test runners, `at_once` at a time, and prints the output of each when it has ended.

        `jobs` has a name, a command and its environment for each; it may be a generator that prepares a job
        while earlier ones run.
        """
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            started = [(what, pool.submit(run_quietly, *job)) for what, *job in jobs]
            for what, job in started:
                code, lines, seconds = job.result()
                print(f"\n-- {what}: {seconds:.0f} s", *lines, sep="\n", flush=True)
                self.add(what, code, lines, closing, count)

    def end(self):
        self.seconds = time.monotonic() - self.began
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        print(f"-------- {self.name}: {counts} in {self.seconds:.0f} s", flush=True)
        return self
