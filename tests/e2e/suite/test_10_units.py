"""The units and their sandbox."""

import pathlib
import pwd
import re
import stat

import host
import pytest

pytestmark = pytest.mark.usefixtures("probe")


def test_systemd_analyze_verify_reports_nothing():
    done = host.run("systemd-analyze", "verify", "--man=no", host.SERVICE, host.SOCKET)
    assert "rgun" not in done.stdout + done.stderr, done.stderr


def test_manual_pages_named_by_the_unit_are_installed():
    pages = re.findall(r"man:([\w.]+)\((\d)\)", host.show("Documentation"))
    assert pages == [("rgun", "8"), ("rgun.toml", "5")]
    for name, section in pages:
        assert pathlib.Path(f"/usr/share/man/man{section}/{name}.{section}.gz").is_file()


def test_systemd_analyze_security_is_two_or_less():
    last = host.run("systemd-analyze", "security", "--no-pager", host.SERVICE).stdout.splitlines()[-1]
    print(last)
    level = float(re.search(r"(\d+\.\d)", last)[1])
    assert level <= 2.0, last


def test_stop_timeout_is_longer_than_the_drain():
    assert host.show("TimeoutStopUSec") == "45s"


def test_listener_has_its_name_and_backlog():
    assert host.show("FileDescriptorName", host.SOCKET) == "http"
    lines = host.run("ss", "-Htln", "sport", "=", ":8000").stdout.split()
    limit = int(pathlib.Path("/proc/sys/net/core/somaxconn").read_text())
    assert int(lines[2]) == min(4096, limit)


def test_control_socket_is_private_and_removed_at_stop():
    control = pathlib.Path("/run/rgun/control")
    directory, socket = control.parent.stat(), control.stat()
    assert stat.S_ISSOCK(socket.st_mode)
    assert stat.S_IMODE(directory.st_mode) == 0o700
    assert stat.S_IMODE(socket.st_mode) == 0o600
    assert pwd.getpwuid(directory.st_uid).pw_name == pwd.getpwuid(socket.st_uid).pw_name == "rgun"
    host.systemctl("stop", host.SERVICE)
    assert not control.parent.exists()
    host.systemctl("start", host.SERVICE)
    assert control.exists()


def test_workers_do_not_inherit_systemd_variables():
    environ = host.get("/").json()["environ"]
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC"} & set(environ)
    assert environ["STATE_DIRECTORY"] == "/var/lib/rgun"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/var/lib/rgun/written", None),
        ("/tmp/written", None),
        ("/srv/probe/written", "Read-only file system"),
        ("/etc/rgun/written", "Read-only file system"),
        ("/dev/shm/written", None),
    ],
)
def test_application_writes_only_where_the_unit_allows(path, error):
    assert host.get(f"/write{path}").json()["error"] == error
    assert path != "/tmp/written" or not pathlib.Path(path).exists(), "/tmp is not private"


def test_read_write_paths_drop_in_allows_a_directory():
    media = pathlib.Path("/srv/media")
    media.mkdir(exist_ok=True)
    host.run("chown", "rgun:rgun", str(media))
    assert host.get("/write/srv/media/written").json()["error"] == "Read-only file system"
    with host.drop_in("ReadWritePaths=/srv/media"):
        assert host.get("/write/srv/media/written").json()["error"] is None


def test_memory_pressure_is_watched_or_the_reason_logged():
    since = host.journal_cursor()
    host.restart()
    files = [
        pathlib.Path("/proc/pressure/memory"),
        host.cgroup_directory(host.show("ControlGroup")) / "memory.pressure",
    ]
    is_reported = all(file.exists() for file in files)
    log = host.service_log(since)
    assert ("memory pressure is not watched" not in log) == is_reported, log
    doctor = host.run("rgun", "doctor", check=False).stdout
    assert ("does not report memory pressure" not in doctor) == is_reported, doctor
