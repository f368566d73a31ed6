"""The last lines of the runners' output: which of them the summary repeats, and the counts in them."""

import re

CARGO_CLOSING = re.compile(r"^(test result: |SKIPPED )")
PYTEST_CLOSING = re.compile(r"^(=+ )?\d+ (passed|failed|skipped|errors?)\b.* in [\d.]+s")
E2E_CLOSING = re.compile(rf"{PYTEST_CLOSING.pattern}|^SKIPPED: |^(e2e|machine): ")
GUARDS_CLOSING = re.compile(r"^(\d+ passed, \d+ failed$|FAIL )")

# A failed test's name, as pytest and cargo print it, and why it failed (pytest).
FAILURE = re.compile(r"^((FAILED|ERROR) \S+\.py\b.*|test .* \.\.\. FAILED$|E   )")
# The lines of one runner about its failures that the summary repeats.
FAILURE_LINES = 24


def failures(lines):
    """Returns the names of the failed tests and the first reasons, at most `FAILURE_LINES` lines."""
    found = [line for line in lines if FAILURE.search(line)]
    names = [line for line in found if not line.startswith("E ")]
    reasons = [line for line in found if line.startswith("E ")]
    return [*names[:FAILURE_LINES], *reasons[: max(0, FAILURE_LINES - len(names))]]


def plain_count(lines):
    """Sums lines such as `12 passed, 2 failed`."""
    found = [re.match(r"(\d+) passed, (\d+) failed", line) for line in lines]
    passed, failed = (sum(int(match.group(index)) for match in found if match) for index in (1, 2))
    return passed, failed, 0


def cargo_count(lines):
    """Sums `test result: ok. 12 passed; 0 failed; 1 ignored; ...`, and the tests that tests/it skips."""
    found = [re.findall(r"(\d+) (passed|failed|ignored)", line) for line in lines]
    total = {"passed": 0, "failed": 0, "ignored": 0}
    for number, kind in (pair for pairs in found for pair in pairs):
        total[kind] += int(number)
    skipped = sum(line.startswith("SKIPPED ") for line in lines)
    return total["passed"], total["failed"], total["ignored"] + skipped


def pytest_count(lines):
    """Sums `=== 2 failed, 70 passed, 1 skipped in 50.21s ===`."""
    total = {}
    for number, kind in (pair for line in lines for pair in re.findall(r"(\d+) ([a-z]+)", line)):
        total[kind] = total.get(kind, 0) + int(number)
    failed = sum(total.get(kind, 0) for kind in ("failed", "error", "errors", "xpassed"))
    return total.get("passed", 0), failed, total.get("skipped", 0) + total.get("xfailed", 0)


def e2e_count(lines):
    """Sums pytest's lines, and the tests of a machine that cannot be started here."""
    passed, failed, skipped = pytest_count(line for line in lines if PYTEST_CLOSING.search(line))
    return passed, failed, skipped + sum(line.startswith("SKIPPED: ") for line in lines)
