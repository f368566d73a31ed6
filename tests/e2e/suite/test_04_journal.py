"""The entries that `journalctl -u rgun` shows, and the fields for queries."""

import concurrent.futures
import json

import host
import pytest
from support.http_client import Connection
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("probe")


@pytest.fixture(scope="module")
def served(probe):
    """Starts and stops the service; returns the daemon's pid and its entries."""
    since = host.journal_cursor()
    host.restart()
    host.get("/")
    wait_until("both workers are ready", lambda: "2/2 workers ready" in host.show("StatusText"))
    pid = host.main_pid()
    host.systemctl("stop", host.SERVICE)
    host.systemctl("start", host.SERVICE)
    return pid, host.journal(since, _PID=pid)


def test_daemon_entries_have_identifier_unit_and_priority(served):
    _, entries = served
    assert entries
    for entry in entries:
        assert entry["SYSLOG_IDENTIFIER"] == "rgun", entry
        assert entry["_SYSTEMD_UNIT"] == host.SERVICE, entry
        assert entry["PRIORITY"] in "01234567", entry


def test_ordinary_start_and_stop_log_only_info(served):
    _, entries = served
    assert {entry["PRIORITY"] for entry in entries} == {"6"}, host.messages(entries)


def test_worker_entries_have_worker_and_pid_fields(served):
    _, entries = served
    workers = {entry["RGUN_WORKER"] for entry in entries if "RGUN_WORKER" in entry}
    assert len(workers) == 2, entries
    pids = {entry["RGUN_PID"] for entry in entries if "RGUN_PID" in entry}
    assert len(pids) == 2, entries
    prefixed = {name for entry in entries for name in entry if name.startswith("F_")}
    assert not prefixed, "the prefix of tracing-journald's default"


def test_catalog_explains_the_entry_about_the_start(served):
    pid, entries = served
    (ready,) = [entry for entry in entries if " is WSGI: " in entry["MESSAGE"]]
    by_id = (f"MESSAGE_ID={ready['MESSAGE_ID']}", f"_PID={pid}")
    explained = host.run("journalctl", "-q", "-x", *by_id).stdout
    assert "-- Subject: rgun serves" in explained.replace("░░ ", "-- "), explained
    assert "The first worker is ready" in explained, explained


def test_journal_query_by_field_finds_one_worker(served):
    pid, entries = served
    worker = next(entry["RGUN_WORKER"] for entry in entries if "RGUN_WORKER" in entry)
    lines = host.run(
        "journalctl", "-q", "-o", "json", f"RGUN_WORKER={worker}", f"_PID={pid}"
    ).stdout.splitlines()
    assert lines
    assert len(lines) == sum(entry.get("RGUN_WORKER") == worker for entry in entries)


def test_application_output_is_in_the_units_journal():
    since = host.journal_cursor()
    assert host.get("/print").status == 200
    assert host.get("/log").status == 200
    for line in ("probe says hello on stdout", "probe says hello on stderr", "probe writes to wsgi.errors"):
        wait_until(
            f"{line!r} is in the journal",
            lambda line=line: line in host.service_log(since),
        )


def test_concurrent_long_lines_stay_whole_and_name_their_worker():
    wait_until("both workers are ready", lambda: host.status_text().startswith("2/2 "))
    letters, times = "abcd", 10

    def entries_of_both_workers():
        since = host.journal_cursor()
        with concurrent.futures.ThreadPoolExecutor(len(letters)) as clients:
            answers = list(clients.map(lambda letter: host.get(f"/line/{letter}"), letters * times))
        assert {answer.status for answer in answers} == {200}
        found = wait_until(
            "all lines are in the journal",
            lambda: len(found := host.journal(since, RGUN_STREAM="stderr")) >= len(answers) and found,
        )
        return found if len({entry["RGUN_WORKER"] for entry in found}) == 2 else None

    # On a busy machine one worker may serve all.
    entries = wait_until("both workers serve", entries_of_both_workers)
    whole = sorted(letter * (48 << 10) for letter in letters * times)
    assert sorted(host.messages(entries)) == whole
    for entry in entries:
        assert entry["_SYSTEMD_UNIT"] == host.SERVICE, entry
        assert entry["SYSLOG_IDENTIFIER"] == "rgun", entry
        assert entry["PRIORITY"] == "6", entry


def test_control_characters_in_a_path_are_escaped_and_kept_raw():
    since = host.journal_cursor()
    path = "/\x9b2J\u202e".encode()
    with Connection(host.ADDRESS) as client:
        # A body over the limit is logged at the default level.
        client.send(b"POST " + path + b" HTTP/1.1\r\nHost: probe\r\nContent-Length: 99999999999\r\n\r\n")
        assert client.head()[0] == 413
    (entry,) = wait_until("the request is in the journal", lambda: host.journal(since, RGUN_STATUS="413"))
    shown = "/\\u{9b}2J\\u{202e}"
    assert entry["RGUN_PATH"] == shown
    assert entry["MESSAGE"].startswith(f"POST {shown} 413: "), "text, and no [blob data]"
    assert bytes(entry["RGUN_PATH_RAW"]) == path


def test_application_exception_is_one_entry_with_request_id():
    since = host.journal_cursor()
    answer = host.get("/raise")
    assert answer.status == 500
    identity = answer["x-request-id"]
    entries = wait_until(
        "an entry under the id the client was given",
        lambda: [
            entry
            for entry in host.journal(since, RGUN_REQUEST_ID=identity)
            if "ProbeError" in host.messages([entry])[0]
        ],
    )
    assert len(entries) == 1
    text = host.messages(entries)[0]
    assert "Traceback (most recent call last)" in text
    assert "raised on request" in text
    assert entries[0]["PRIORITY"] == "3"


def test_record_line_and_access_entry_share_the_request_id():
    host.configure("probe", "/srv/probe", extra="[log]\naccess = true\n")
    host.restart()
    since = host.journal_cursor()
    identity = host.get("/record")["x-request-id"]

    def entries_of_request():
        entries = host.journal(since, RGUN_REQUEST_ID=identity)
        return entries if len(entries) >= 3 else None

    entries = wait_until("three entries", entries_of_request)
    (record,) = [entry for entry in entries if "LOGGER" in entry]
    (line,) = [entry for entry in entries if entry["MESSAGE"] == "probe prints in a request"]
    (access,) = [entry for entry in entries if entry.get("TARGET") == "rgun::access"]
    assert access["RGUN_PATH"] == "/record"
    assert line["PRIORITY"] == "6"
    first, *_, last = record["MESSAGE"].splitlines()
    assert (first, last) == ("probe logs an error", "probe.ProbeError: caught and logged")
    expected = {
        "PRIORITY": "3",
        "LOGGER": "probe.shop",
        "CODE_FILE": "/srv/probe/probe.py",
        "CODE_FUNC": "application",
        "THREAD_NAME": "MainThread",
        "PROCESS_NAME": "MainProcess",
        "ORDER": "4711",
        "RGUN_STREAM": "stderr",
        "RGUN_WORKER": access["RGUN_WORKER"],
        "RGUN_GENERATION": "1",
        "_SYSTEMD_UNIT": host.SERVICE,
    }
    assert {name: record.get(name) for name in expected} == expected
    assert int(record["CODE_LINE"]) > 0
    found = host.run("journalctl", "-q", "-o", "json", f"RGUN_REQUEST_ID={identity}").stdout.splitlines()
    assert len(found) == 3, found


def test_printed_traceback_is_one_entry():
    since = host.journal_cursor()
    identity = host.get("/traceback")["x-request-id"]
    printed, threads = wait_until(
        "both tracebacks are in the journal",
        lambda: len(found := host.journal(since, PRIORITY="3", RGUN_STREAM="stderr")) == 2 and found,
    )
    link = "\n\nThe above exception was the direct cause of the following exception:\n\n"
    heading = "Traceback (most recent call last):\n"
    for entry, introduction, end in (
        (printed, "", "probe.ProbeError: printed"),
        (threads, "Exception in thread failing:\n", "probe.ProbeError: in a thread"),
    ):
        cause, last = entry["MESSAGE"].split(link)
        assert cause.startswith(f"{introduction}{heading}  File "), cause
        assert cause.splitlines()[-1].startswith("ValueError: "), cause
        assert last.startswith(f"{heading}  File "), last
        assert last.splitlines()[-1] == end, last
        assert (entry["RGUN_GENERATION"], entry["_SYSTEMD_UNIT"]) == ("1", host.SERVICE)
        assert entry["RGUN_WORKER"] == printed["RGUN_WORKER"]
    assert printed["RGUN_REQUEST_ID"] == identity
    assert "RGUN_REQUEST_ID" not in threads, "the application's thread serves no request"
    others = host.messages(host.journal(since, PRIORITY="6", RGUN_STREAM="stderr"))
    assert others == ["probe prints after the traceback"]


def test_lines_of_json_in_the_journal_have_priorities():
    host.configure("probe", "/srv/probe", extra='[log]\nformat = "json"\n')
    host.restart()
    since = host.journal_cursor()
    host.get("/record")
    found = wait_until("the record is in the journal", lambda: host.journal(since, PRIORITY="3"))
    (record,) = [json.loads(entry["MESSAGE"]) for entry in found]
    assert (record["logger"], record["level"]) == ("probe.shop", "error")
    assert "Traceback" in record["message"]
    since = host.journal_cursor()
    host.get("/traceback")
    found = wait_until(
        "the tracebacks are in the journal",
        lambda: len(found := host.journal(since, PRIORITY="3")) == 2 and found,
    )
    for entry in found:
        message = json.loads(entry["MESSAGE"])["message"]
        assert (message.count("Traceback"), message.count("probe.ProbeError")) == (2, 1), message
