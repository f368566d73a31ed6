"""Waiting for a condition, always with a deadline and a sentence that says what did not happen."""

import time

# In seconds. Far more than any test needs on an idle machine; the machine may be busy.
DEADLINE = 30


def wait_until(what, condition, timeout=DEADLINE, interval=0.01):
    """Calls `condition` until it returns a true value and returns that value.

    Use it only for facts that neither a log line nor a response announces. Fails with `what` after `timeout`
    seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {timeout} s: {what} (last value: {value!r})")
        time.sleep(interval)


def assert_stays(what, condition, seconds, interval=0.05):
    """Calls `condition` for `seconds`; fails with `what` as soon as it returns a false value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"no longer: {what}"
        time.sleep(interval)
