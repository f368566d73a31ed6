"""How long, how often, and in which order: pytest's options for the chaos (`-p options`)."""

import pytest


def pytest_addoption(parser):
    """The words of tests/chaos/run."""
    parser.addoption("--seed", type=int, default=1, help="of everything that is left to chance")
    parser.addoption("--seconds", type=float, default=40, help="of chaos, both halves together")
    parser.addoption("--reloads", type=int, default=20, help="of the small application")


def pytest_report_header(config):
    """The seed, first of all: it repeats the run."""
    return "chaos: " + ", ".join(
        f"{name} {config.getoption(name)}" for name in ("seed", "seconds", "reloads")
    )


@pytest.fixture
def option(pytestconfig):
    """An option by its name."""
    return pytestconfig.getoption
