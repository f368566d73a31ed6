"""Pytest options of the chaos test (`-p options`)."""

import pytest


def pytest_addoption(parser):
    """Adds the options of tests/chaos/run."""
    parser.addoption("--seed", type=int, default=1, help="seed of the random choices")
    parser.addoption("--seconds", type=float, default=40, help="seconds of chaos, for both halves together")
    parser.addoption("--reloads", type=int, default=20, help="number of reloads of the small application")


def pytest_report_header(config):
    """Prints the options; the same seed repeats the run."""
    return "chaos: " + ", ".join(
        f"{name} {config.getoption(name)}" for name in ("seed", "seconds", "reloads")
    )


@pytest.fixture
def option(pytestconfig):
    """An option by its name."""
    return pytestconfig.getoption
