"""The cases in process: each does what its docstring says. tests/compat runs them on a server."""

import io
import json
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import cases
import pytest

ENDS_PROCESS = {"exit", "exit/middle", "segfault", "kill"}
ENDLESS = {"iterate/endless"}
RAISES = {name for name in cases.CASES if name.startswith("raise") or name == "exc-info/after"} | {
    "write/raise"
}
# The validator's wrappers do not support these.
UNSUPPORTED_BY_VALIDATOR = {name for name in cases.CASES if name.startswith("file")} | {"environ/writable"}
ORDINARY = sorted(
    name
    for name, function in cases.CASES.items()
    if function.conforming and name not in ENDS_PROCESS | ENDLESS | RAISES | UNSUPPORTED_BY_VALIDATOR
)


def call(application, path, method="GET", body=b"", query=""):
    """Runs one request as a server would; returns status, headers and body."""
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "text/plain",
        "wsgi.input": io.BytesIO(body),
        "wsgi.file_wrapper": FileWrapper,
        "SERVER_SOFTWARE": "test/1",
    }
    setup_testing_defaults(environ)
    answer = {}
    written = []
    chunks = []

    def start_response(status, headers, exc_info=None):
        if exc_info and (written or chunks):
            raise exc_info[1]
        answer.update(status=status, headers=dict(headers))
        return written.append

    result = application(environ, start_response)
    try:
        # Not list(), because start_response() checks which chunks have been sent so far.
        for chunk in result:
            chunks.append(chunk)
    finally:
        if hasattr(result, "close"):
            result.close()
    return answer["status"], answer["headers"], b"".join(written + chunks)


def events(identity):
    """Returns the events of a request."""
    return json.loads(call(cases.application, "/events", query=f"id={identity}")[2])


@pytest.mark.parametrize("name", ORDINARY)
def test_conforming_case_passes_the_validator(name):
    status, _, body = call(validator(cases.application), f"/{name}", "POST", b"one\ntwo\nthree\n")
    assert status[:3] in {"200", "500"}
    assert status[:3] == "200" or name == "exc-info/before"
    assert b"must not be here" not in body


@pytest.mark.parametrize("name", sorted(RAISES))
def test_raising_case_raises(name):
    with pytest.raises(BaseException) as caught:
        call(cases.application, f"/{name}")
    assert not isinstance(caught.value, (KeyError, AttributeError, TypeError, StopIteration))


def test_every_case_is_listed_with_its_docstring():
    listed = call(cases.application, "/")[2].decode().splitlines()
    assert len(listed) == len(cases.CASES)
    assert all(line.split("\t")[1] for line in listed)


def test_unknown_path_is_404_and_longer_path_finds_its_case():
    assert call(cases.application, "/nonsense")[0].startswith("404")
    assert call(cases.application, "/environ/a b")[0].startswith("200")
    assert call(cases.application, "/status/418")[0].startswith("418")


@pytest.mark.parametrize("name", ["iterate", "iterate/empty", "file", "file/no-descriptor", "length/exact"])
def test_close_is_recorded_once(name):
    call(cases.application, f"/{name}", query=f"id={name}")
    assert [entry["what"] for entry in events(name)] == ["close"]


def test_unclosed_file_is_not_recorded_as_closed():
    environ = {"PATH_INFO": "/file", "QUERY_STRING": "id=lost", "wsgi.file_wrapper": lambda file, size: None}
    cases.application(environ, lambda status, headers: None)
    assert [entry["what"] for entry in events("lost")] == ["collected"]


@pytest.mark.parametrize(
    "name", ["read", "read-all", "readline", "readlines", "iter", "mixed", "zero", "thread"]
)
def test_every_read_method_returns_the_whole_body(name):
    body = b"one\n\ntwo\nend without newline"
    assert json.loads(call(cases.application, f"/input/{name}", "POST", body)[2])["length"] == len(body)


def test_file_cases_send_from_their_position():
    whole = call(cases.application, "/file", query="size=5000")[2]
    assert call(cases.application, "/file/offset", query="size=5000&offset=1000")[2] == whole[1000:]
    assert call(cases.application, "/file/buffered")[2][:5000] == whole
