"""Lines that threads and tasks print at the same time: each is whole, and names its own request."""

import concurrent.futures
import json
import runpy
from collections import Counter

import pytest
from support.paths import COMPAT_APPS
from support.waiting import wait_until

N_THREADS = 6
N_REQUESTS = 48

application = runpy.run_path(str(COMPAT_APPS / "printing.py"))
lines_of_many, N_ROUNDS = application["lines_of_many"], application["N_ROUNDS"]


class Printer:
    """A daemon whose log is JSON, and what its application prints."""

    def __init__(self, start, target, *flags, env=None):
        flags = ("--workers", "1", "--threads", str(N_THREADS), "--log-format", "json", *flags)
        self.daemon = start(f"printing:{target}", flags=flags, env=env).wait_ready()

    def get(self, target):
        """Sends a request; returns its id."""
        response = self.daemon.get(target)
        assert response.status == 200, self.daemon.log()
        return response["x-request-id"]

    def get_many(self, path):
        """Sends requests at the same time; returns the id of each by its query."""
        names = [f"n{number}" for number in range(N_REQUESTS)]
        with concurrent.futures.ThreadPoolExecutor(N_THREADS) as clients:
            ids = clients.map(lambda name: self.get(f"{path}?{name}"), names)
        return dict(zip(names, ids))

    def printed(self):
        """Returns each printed line with its request, or None; also lines that are no entry."""
        for line in self.daemon.log().splitlines():
            entry = json.loads(line) if line.startswith("{") else {"message": line, "rgun.stream": None}
            if "rgun.stream" in entry:
                yield entry["message"], entry.get("rgun.request_id")

    def count(self, text):
        return sum(text in line for line, _ in self.printed())

    def assert_printed(self, expected, but=()):
        """Asserts that these lines, and only these, are printed, besides those with a text of `but`."""
        expected = Counter(expected)
        n_expected = sum(expected.values())

        def find():
            lines = [line for line in self.printed() if not any(text in line[0] for text in but)]
            return len(lines) >= n_expected and Counter(lines)

        found = wait_until(f"{n_expected} printed lines", find)
        differences = [expected - found, found - expected]
        assert [[(text[:80], id) for text, id in lines] for lines in differences] == [[], []]


@pytest.fixture
def printer(start):
    return Printer(start, "wsgi")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_threads_that_print_at_once_name_their_requests(start, unbuffered):
    printer = Printer(start, "wsgi", env={"PYTHONUNBUFFERED": unbuffered})
    requests = printer.get_many("/many")
    printer.assert_printed((line, id) for name, id in requests.items() for line in lines_of_many(name))


def test_thread_without_a_request_gets_none_of_others(printer):
    requests = printer.get_many("/many_in_background")
    own = [(line, id) for name, id in requests.items() for line in lines_of_many(name)]
    others = [(line, None) for name in requests for line in lines_of_many("background-" + name)]
    printer.assert_printed(own + others)


def test_tracebacks_that_threads_print_at_once_are_whole(printer):
    requests = printer.get_many("/tracebacks")
    n_tracebacks = N_ROUNDS * N_REQUESTS
    wait_until("the ends of all tracebacks", lambda: printer.count("ValueError: ") >= n_tracebacks)
    found = Counter()
    for text, id in printer.printed():
        first, *_, last = text.splitlines()
        assert first == "Traceback (most recent call last):", text
        found[last, id] += 1
    assert found == Counter(
        (f"ValueError: {name}.{number}", id) for name, id in requests.items() for number in range(N_ROUNDS)
    )


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_tasks_and_their_threads_name_their_requests(start, loop):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    printer = Printer(start, "asgi", "--loop", loop)
    requests = printer.get_many("/")
    wait_until("the ends of all tasks", lambda: printer.count(" ends (") == N_ROUNDS * N_REQUESTS)
    # Another task may print before the line has ended: then its beginning is a line of its own.
    for text, id in printer.printed():
        assert id == requests[text.partition("(")[2].partition(".")[0]], text
    printer.assert_printed(
        [(line, id) for name, id in requests.items() for line in lines_of_many(name)],
        but=("begins", " ends ("),
    )


def test_line_that_is_flushed_in_parts_is_one_line(printer):
    id = printer.get("/progress?x")
    printer.assert_printed([("begins x goes on ends", id)])


def test_line_of_another_thread_after_a_flush_is_its_own(printer):
    id = printer.get("/interrupted?x")
    printer.assert_printed([("begins x", id), ("between x", None), ("ends x", id)])


def test_unfinished_line_ends_with_the_next_request(start):
    printer = Printer(start, "wsgi", "--threads", "1")
    first, second = printer.get("/unfinished?x"), printer.get("/progress?y")
    printer.assert_printed([("unfinished x", first), ("begins y goes on ends", second)])


def test_lines_that_are_printed_at_the_exit_have_no_request(start):
    printer = Printer(start, "wsgi")
    id = printer.get("/exit?x")
    printer.daemon.stop()
    printer.assert_printed([("unfinished x", id), ("at the exit", None)])


def test_text_without_an_encoding_is_refused_at_once(printer):
    id = printer.get("/unencodable?x")
    printer.assert_printed([("refused x", id), ("euro \u20ac x", id), ("lone \\ud800 x", id)])


def test_line_over_the_limit_is_logged_in_parts(start):
    printer = Printer(start, "wsgi", "--log-format", "text")
    id = printer.get("/long?x")
    line = printer.daemon.wait_for_log(" ends x")
    assert line == "x " + "x" * 2_000_000 + " ends x"
    assert id


def test_code_that_runs_within_a_write_prints_a_line(printer):
    id = printer.get("/nested?x")
    printer.assert_printed([("within x", id), ("odd ? x", id)])


def test_forked_child_does_not_print_the_start_of_a_line(printer):
    id = printer.get("/fork?x")
    printer.assert_printed([("the child x", None), ("the parent x", id)])
