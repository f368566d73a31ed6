"""Records of logging, and printed lines, as entries with the request in which they were made."""

import itertools
import json
import re
from urllib.parse import quote

import pytest
from support.interpreters import require_module
from support.paths import COMPAT_APPS
from support.waiting import wait_until
from support.websocket_client import WebSocket

JSON = ("--workers", "1", "--log-format", "json")


class Entries:
    """A daemon whose log is JSON, and the entries of its requests."""

    def __init__(self, daemon):
        self.daemon = daemon.wait_ready()
        self.numbers = itertools.count(1)

    def entries(self, text):
        """Returns the entries whose message contains a text."""
        lines = [line for line in self.daemon.log().splitlines() if line.startswith("{")]
        return [entry for entry in map(json.loads, lines) if text in entry["message"]]

    def wait(self, text, count=1):
        """Waits for exactly this number of entries, and returns them."""
        found = wait_until(
            f"{count} entries with {text!r} in\n{self.daemon.log()}",
            lambda: len(self.entries(text)) >= count and self.entries(text),
        )
        assert len(found) == count, found
        return found

    def only(self, text):
        return self.wait(text)[0]

    def get(self, path):
        """Sends a request with a marker of its own; returns marker and request id."""
        marker = f"({path.strip('/')}-{next(self.numbers)})"
        response = self.daemon.get(f"{path}?{marker}")
        assert response.status == 200, self.daemon.log()
        return marker, response["x-request-id"]


@pytest.fixture(scope="module")
def wsgi(start_shared, tmp_path_factory):
    return Entries(
        start_shared(
            "logging_wsgi", tmp_path_factory.mktemp("app"), flags=(*JSON, "--pythonpath", COMPAT_APPS)
        )
    )


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def asgi(request, start_shared):
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return Entries(start_shared("logging_asgi", flags=(*JSON, "--loop", request.param)))


def ids(entries):
    return [entry.get("rgun.request_id") for entry in entries]


def test_record_has_logger_place_thread_and_request(wsgi):
    marker, request = wsgi.get("/log")
    entry = wsgi.only(f"logged {marker}")
    assert entry.pop("time").endswith("Z")
    assert entry.pop("rgun.pid") > 0
    assert entry.pop("code_file").endswith("logging_wsgi.py")
    assert entry.pop("code_line") > 0
    assert entry == {
        "level": "warn",
        "message": f"WARNING logged {marker}",
        "rgun.worker": 0,
        "rgun.generation": 1,
        "rgun.stream": "stderr",
        "rgun.request_id": request,
        "logger": "shop.cart",
        "code_func": "do_log",
        "thread_name": "MainThread",
        "process_name": "MainProcess",
        "ORDER": "4711",
    }


def test_levels_have_their_severity(wsgi):
    marker, _ = wsgi.get("/levels")
    found = wsgi.wait(marker, 6)
    assert [entry["level"] for entry in found] == ["debug", "info", "warn", "error", "error", "error"]


def test_exception_is_one_entry(wsgi):
    marker, request = wsgi.get("/exception")
    entry = wsgi.only(f"failed {marker}")
    assert (entry["level"], entry["rgun.request_id"]) == ("error", request)
    first, second, *_, last = entry["message"].splitlines()
    assert (first, second) == (f"ERROR failed {marker}", "Traceback (most recent call last):")
    assert last == f"ValueError: it broke {marker}"


def test_record_without_a_handler_is_an_entry(wsgi):
    marker, request = wsgi.get("/last_resort")
    entry = wsgi.only(f"unhandled {marker}")
    assert (entry["logger"], entry["level"], entry["rgun.request_id"]) == ("lonely", "error", request)


def test_printed_lines_name_their_request(wsgi):
    marker, request = wsgi.get("/print")
    for text in ("err", "out", "second", "written", "lines"):
        entry = wsgi.only(f"{text} {marker}")
        assert entry["message"].strip() == f"{text} {marker}"
        assert entry["rgun.request_id"] == request
        assert "logger" not in entry
    half, whole = wsgi.only(f"half {marker}"), wsgi.only(f"whole {marker}")
    assert ids([half, whole]) == [request, request]
    assert (half["message"], whole["message"]) == (f"half {marker}", f"INFO whole {marker}")
    assert "rgun.request_id" not in wsgi.only(f"raw {marker}")


def test_printed_traceback_names_its_request(wsgi):
    marker, request = wsgi.get("/traceback")
    assert wsgi.only(f"ValueError: printed {marker}")["rgun.request_id"] == request


def test_thread_of_the_application_has_no_request(wsgi):
    marker, _ = wsgi.get("/thread")
    entry = wsgi.only(f"in a thread {marker}")
    assert (entry["thread_name"], entry["logger"]) == ("helper", "shop.cart")
    assert "rgun.request_id" not in entry


def test_record_at_import_has_no_request(wsgi):
    assert "rgun.request_id" not in wsgi.only("imported in")


def test_other_streams_and_handlers_are_unchanged(wsgi):
    marker, request = wsgi.get("/others")
    shouted = wsgi.only(f"SHOUTED {marker.upper()}")
    assert "logger" not in shouted
    assert shouted["rgun.request_id"] == request
    assert wsgi.only(f"ended {marker}")["message"] == f"ended {marker}!"
    wrapped = wsgi.only(f"wrapped {marker}")
    assert (wrapped["logger"], wrapped["rgun.request_id"]) == ("other", request)


def test_record_that_cannot_be_formatted_is_reported_by_logging(wsgi):
    wsgi.get("/unformattable")
    wsgi.only("--- Logging error ---")


def test_odd_characters_do_not_change_other_entries(wsgi):
    marker, request = wsgi.get("/odd_text")
    odd = wsgi.only(f"odd \x1e@forged\x1e {marker}")
    assert odd["message"] == f"INFO odd \x1e@forged\x1e {marker} \\ud800 € \n\n tail"
    assert odd["rgun.request_id"] == request
    printed = wsgi.only(f"printed {marker}")
    assert printed["message"] == f"\x1e@forged-1\x1eprinted {marker}"
    assert printed["rgun.request_id"] == request
    assert wsgi.only(f'\x1e{{"json": "sequence"}} {marker}')["rgun.request_id"] == request


@pytest.mark.parametrize("token", ["", "0123456789abcdef"])
def test_client_cannot_forge_records_or_requests(wsgi, token):
    """The application prints the decoded path, as many do for unknown pages."""
    record = json.dumps(
        {"rgun": "record", "priority": 3, "message": "sold", "logger": "bank", "request_id": "victim-1"}
    )
    for forged in (f"\x1e{token}{record}", f"y\x1e{token}@victim-1\x1ebought", f"\x1e{token}@\x1ebought"):
        response = wsgi.daemon.get("/" + quote(f"print_path {forged}"))
        assert response.status == 200
        (entry,) = wait_until(
            "the line",
            lambda: [e for e in wsgi.entries("") if e["message"] == "the path is " + forged],  # noqa: B023
        )
        assert (entry["level"], entry["rgun.request_id"]) == ("info", response["x-request-id"])
        assert "logger" not in entry
    assert "victim-1" not in {entry.get("rgun.request_id") for entry in wsgi.entries("")}


def test_token_is_in_neither_environment_nor_log(wsgi):
    marker, _ = wsgi.get("/log")
    wsgi.only(f"logged {marker}")
    token = wsgi.daemon.get("/token").body.decode()
    assert re.fullmatch("\x1e[0-9a-f]{16}", token)
    assert token[1:] not in wsgi.daemon.log()
    (pid,) = {entry["rgun.pid"] for entry in wsgi.entries("") if "rgun.worker" in entry}
    for file in ("environ", "cmdline"):
        with open(f"/proc/{pid}/{file}") as opened:
            assert token[1:] not in opened.read()


def test_long_record_becomes_entries_of_48_kib(wsgi):
    marker, request = wsgi.get("/long")
    ascii_parts = wait_until(
        "all parts", lambda: [e for e in wsgi.entries("xxxx") if len(e["message"]) < 10_000]
    )
    assert len(ascii_parts) == 1
    ascii_parts = wsgi.entries("xxxx")
    assert "".join(entry["message"] for entry in ascii_parts) == f"INFO {marker} " + "x" * 100_000
    assert max(len(entry["message"]) for entry in ascii_parts) == 48 << 10
    wait_until("all parts", lambda: "".join(e["message"] for e in wsgi.entries("€€")).count("€") == 30_000)
    parts = wsgi.entries("€€")
    assert max(len(entry["message"].encode()) for entry in parts) <= 48 << 10
    assert ids([*ascii_parts, *parts]) == [request] * (len(ascii_parts) + len(parts))


def test_record_after_half_a_line_has_its_fields(wsgi):
    marker, request = wsgi.get("/after_half_line")
    entry = wsgi.only(f"after it {marker}")
    assert entry["message"] == f"WARNING after it {marker}"
    assert (entry["logger"], entry["rgun.request_id"]) == ("shop.cart", request)


def test_record_is_bounded(wsgi):
    marker, request = wsgi.get("/bounded")
    entry = wsgi.only(marker)
    assert (entry["level"], entry["rgun.request_id"]) == ("warn", request)
    assert entry["logger"] == "n" * 1024
    assert 8 < len([name for name in entry if name.startswith("FIELD_")]) < 32
    assert "\x1e" not in wsgi.daemon.log()
    assert '"rgun":"record"' not in wsgi.daemon.log()


def test_value_without_a_text_is_left_out(wsgi):
    marker, _ = wsgi.get("/odd_extra")
    entry = wsgi.only(f"odd extra {marker}")
    assert entry["FINE"] == "1"
    assert "HUGE" not in entry


def test_find_spec_before_the_import_keeps_records(start, project):
    application = """
        import importlib.util, sys

        assert "logging" not in sys.modules
        assert importlib.util.find_spec("logging") and importlib.util.find_spec("logging")
        n_finders = len(sys.meta_path)
        import logging

        assert len(sys.meta_path) == n_finders - 1

        def application(environ, start_response):
            logging.getLogger("early").warning("found")
            start_response("200 OK", [])
            return []
    """
    server = Entries(start("shop_site:application", project(shop_site=application), flags=JSON))
    assert server.daemon.get("/").status == 200
    assert server.only("found")["logger"] == "early"


def test_forked_child_has_no_request(wsgi):
    marker, _ = wsgi.get("/fork")
    record, line = wsgi.only(f"in the child {marker}"), wsgi.only(f"printed by the child {marker}")
    assert record["logger"] == "shop.cart"
    assert ids([record, line]) == [None, None]


def test_redirected_stderr_gets_plain_text(wsgi):
    wsgi.get("/redirected")
    marker, request = wsgi.get("/log")
    assert wsgi.only(f"logged {marker}")["rgun.request_id"] == request


def test_streams_keep_their_types_and_errors(wsgi):
    wsgi.get("/types")


def test_threads_name_their_own_requests(start):
    server = Entries(start("logging_wsgi", flags=("--threads", "3", "--log-format", "json")))
    made = [server.get(path) for path in ("/log", "/print", "/exception") * 5]
    for marker, request in made:
        wait_until(f"entries of {marker}\n{server.daemon.log()}", lambda: server.entries(marker))  # noqa: B023
        named = [entry for entry in server.entries(marker) if "raw" not in entry["message"]]
        assert set(ids(named)) == {request}
    names = {entry["thread_name"] for entry in server.entries("") if "thread_name" in entry}
    assert names <= {"MainThread", "rgun-1", "rgun-2"}


def test_forked_workers_send_records(start):
    server = Entries(start("logging_wsgi", flags=("--workers", "2", "--preload", "--log-format", "json")))
    server.daemon.wait_for_log("is ready after", 3)
    for _ in range(8):
        marker, request = server.get("/log")
        entry = server.only(f"logged {marker}")
        assert (entry["logger"], entry["rgun.request_id"]) == ("shop.cart", request)
        assert entry["rgun.worker"] in (0, 1)
    assert "rgun.worker" not in server.only("imported in")


def test_workers_of_a_promoted_zygote_have_their_own_pids(start):
    flags = ("--workers", "2", "--preload", "--log-format", "json")
    server = Entries(start("logging_wsgi", flags=flags, env={"RGUN_WORKERS_REFORK": "20"}))

    def workers_are_replaced():
        server.get("/pid")
        # Worker 0 makes room for the zygote that it becomes; then this zygote forks both workers.
        return server.daemon.log().count("has been replaced") >= 3

    wait_until("workers of the promoted zygote", workers_are_replaced)
    marker, request = server.get("/pid")
    assert server.only(f" {marker}")["rgun.request_id"] == request
    for entry in server.entries(" (pid-"):
        assert entry["message"].startswith(f"INFO process {entry['rgun.pid']} "), entry


def test_reload_turns_records_off(start, tmp_path):
    config = tmp_path / "rgun.toml"
    config.write_text("[log]\nformat = 'json'\n")
    server = Entries(start("logging_wsgi", flags=("--config", config)))
    marker, request = server.get("/log")
    assert server.only(f"logged {marker}")["rgun.request_id"] == request
    token = server.daemon.get("/token").body.decode()
    config.write_text("[log]\nformat = 'json'\nrecords = false\n")
    server.daemon.reload()
    server.daemon.wait_for_log("reloaded:")
    marker, _ = server.get("/exception")
    assert "rgun.request_id" not in server.only(f"failed {marker}")
    # Each line of the traceback is an entry.
    assert server.only(f"failed {marker}")["message"] == f"ERROR failed {marker}"
    server.get("/types")
    # Also with a token of the worker before the reload.
    text = f'{token}{{"rgun":"record","priority":3,"message":"old record"}}'
    assert server.daemon.get("/" + quote(f"print_path {text}")).status == 200
    assert server.only("old record")["message"] == "the path is " + text


@pytest.mark.parametrize("log_format", ["auto", "text"])
def test_lines_of_text_have_fields_if_asked_for(start, log_format):
    server = start("logging_wsgi", flags=("--workers", "1", "--log-format", log_format)).wait_ready()
    response = server.get("/print?marker")
    expected = {
        "auto": ("err marker", "INFO whole marker"),
        "text": (
            f"err marker rgun.worker=0 rgun.request_id={response['x-request-id']}",
            f"INFO whole marker rgun.worker=0 rgun.request_id={response['x-request-id']} logger=shop.cart ",
        ),
    }[log_format]
    line, record = (server.wait_for_log(text) for text in ("err marker", "whole marker"))
    assert line == expected[0]
    assert record.startswith(expected[1]) if log_format == "text" else record == expected[1]
    assert "\x1e" not in server.log()


def test_tasks_and_copied_contexts_name_their_request(asgi):
    made = [asgi.get("/") for _ in range(20)]
    for marker, request in made:
        for text, count in (("task", 1), ("child", 2), ("line", 2), ("copied context", 1)):
            assert ids(asgi.wait(f"{text} {marker}", count)) == [request] * count
        assert ids(asgi.wait(f"plain thread {marker}")) == [None]
    # Tasks that outlive their requests keep their requests.
    asgi.get("/later")
    for marker, request in made:
        assert ids(asgi.wait(f"later {marker}")) == [request]
    for marker, request in [asgi.get("/") for _ in range(3)]:
        assert ids(asgi.wait(f"task {marker}")) == [request]


def test_variables_of_a_request_are_unset_in_the_next(asgi):
    for _ in range(5):
        asgi.get("/")
    assert set(re.findall(r"\w+", asgi.daemon.get("/users").body.decode())) == {"None"}


def test_records_of_lifespan_have_no_request(asgi):
    assert ids(asgi.wait("lifespan lifespan.startup")) == [None]


def test_websocket_has_the_request_of_its_handshake(start):
    server = Entries(start("logging_asgi", flags=(*JSON, "--access-logfile", "-")))
    with WebSocket(server.daemon.unix_path, "/?socket") as websocket:
        for _ in range(2):
            websocket.send("message")
            assert websocket.read_frame() == (1, b"logged")
        found = server.wait("message socket", 2)
    (handshake,) = wait_until(
        "the entry of the handshake",
        lambda: [entry for entry in server.entries("GET /?socket") if entry["message"] == "GET /?socket 101"],
    )
    assert ids(found) == [handshake["rgun.request_id"]] * 2


DJANGO = """
    from django.conf import settings
    from django.core.{interface} import get_{interface}_application
    from django.urls import path

    CONSOLE = {{
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {{"console": {{"class": "logging.StreamHandler"}}}},
        "root": {{"handlers": ["console"], "level": "WARNING"}},
    }}
    # Django 4 refuses an empty key when an exception is shown.
    settings.configure(ALLOWED_HOSTS=["*"], LOGGING={logging}, ROOT_URLCONF=__name__, SECRET_KEY="none")
    application = get_{interface}_application()

    def fail(request):
        print("the view prints")
        raise ValueError("the view fails")

    urlpatterns = [path("fail", fail)]
"""
DJANGO_SETTINGS = [("wsgi", "{}"), ("wsgi", "CONSOLE"), ("asgi", "CONSOLE")]


@pytest.mark.parametrize(("interface", "settings"), DJANGO_SETTINGS)
def test_exception_in_a_view_of_django_is_one_record(start, project, python, interface, settings):
    require_module(python, "django")
    directory = project(shop_site=DJANGO.format(interface=interface, logging=settings))
    env = {"PYTHONUNBUFFERED": "1"}
    server = Entries(start("shop_site:application", directory, flags=JSON, env=env))
    response = server.daemon.get("/fail")
    assert response.status == 500
    request = response["x-request-id"]
    # Without a handler of the project, Django logs to stderr only with DEBUG.
    n_records = 1 if settings == "CONSOLE" else 0

    def entries():
        found = [entry for entry in server.entries("") if entry.get("rgun.request_id") == request]
        return found if len(found) >= n_records + 2 else None

    found = wait_until("the entries of the request", entries)
    server.only("the application answered with an error")
    records = [entry for entry in found if entry.get("logger") == "django.request"]
    assert len(records) == n_records, found
    for record in records:
        assert record["level"] == "error"
        first, second, *_, last = record["message"].splitlines()
        assert (first, last) == ("Internal Server Error: /fail", "ValueError: the view fails")
        assert second == "Traceback (most recent call last):"
    assert [entry["message"] for entry in found if entry.get("rgun.stream") == "stdout"] == [
        "the view prints"
    ]
    assert len(found) == n_records + 2


FLASK = """
    import flask

    application = flask.Flask(__name__)

    @application.route("/fail")
    def fail():
        application.logger.warning("the view logs")
        raise ValueError("the view fails")
"""


def test_default_logger_of_flask_sends_records(start, project, python):
    require_module(python, "flask")
    server = Entries(start("shop_site:application", project(shop_site=FLASK), flags=JSON))
    response = server.daemon.get("/fail")
    assert response.status == 500
    for text, level in (("the view logs", "warn"), ("Exception on /fail [GET]", "error")):
        entry = server.only(text)
        assert (entry["level"], entry["logger"]) == (level, "shop_site")
        assert entry["rgun.request_id"] == response["x-request-id"]
    assert server.only("Exception on /fail")["message"].endswith("\nValueError: the view fails")
