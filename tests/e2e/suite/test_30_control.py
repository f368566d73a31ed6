"""The control socket: the commands for a running daemon, varlinkctl, and access for a group."""

import json
import pathlib

import host
import pytest
from support.waiting import wait_until

CONTROL = "/run/rgun/control"
REPORT = "/run/systemd/report/io.rgun.Server"
# The drop-in and the unit of packaging/doc/control.md.
READERS = "SupplementaryGroups=adm\nSystemCallFilter=@chown\nRuntimeDirectoryMode=0711"
REPORT_UNIT = f"""[Unit]
BindsTo=rgun.service
After=rgun.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mkdir -p /run/systemd/report
ExecStart=ln -f {CONTROL} {REPORT}
ExecStop=rm -f {REPORT}
"""

pytestmark = pytest.mark.usefixtures("probe")
needs_varlinkctl = pytest.mark.skipif(
    host.systemd_version() < 257, reason="varlinkctl of this systemd cannot introspect"
)


@pytest.fixture
def readers(probe_app):
    """Lets the members of the group adm read from the control socket."""
    host.configure("probe", probe_app, extra='[control]\ngroup = "adm"\n')
    with host.drop_in(READERS):
        yield
        host.configure("probe", probe_app)


def rgun(*arguments, prefix=(), check=True):
    return host.run(*prefix, "rgun", *arguments, check=check)


def as_nobody(group):
    return ("setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups")


def call(method, *flags, path=CONTROL):
    """Calls a method by varlinkctl; returns the replies, which may be a JSON text sequence (RFC 7464)."""
    done = host.run("varlinkctl", "--json=short", *flags, "call", path, method, "{}")
    return [json.loads(line) for line in done.stdout.replace("\x1e", "").splitlines()]


def wait_for_workers(count):
    wait_until(
        f"{count} workers", lambda: json.loads(rgun("status", "--json").stdout)["workers_ready"] == count
    )


def test_commands_describe_the_service():
    wait_for_workers(2)
    status = json.loads(rgun("status", "--json").stdout)
    assert (status["pid"], status["workers_ready"]) == (host.main_pid(), 2)
    assert "workers:     2 of 2 ready" in rgun("status").stdout
    workers = json.loads(rgun("workers", "--json").stdout)["workers"]
    assert [worker["state"] for worker in workers] == ["ready", "ready"]
    assert all(worker["memory"] > 1 << 20 for worker in workers)
    assert rgun("requests").stdout == "no request is queued or running\n"


def test_stacks_shows_the_python_stack_of_each_worker():
    wait_for_workers(2)
    workers = json.loads(rgun("stacks", "--json").stdout)["workers"]
    assert [worker["worker"] for worker in workers] == [0, 1]
    for worker in workers:
        assert "(most recent call first)" in worker["stacks"], worker
    assert rgun("stacks", "--worker", "1").stdout.startswith("worker 1, process ")
    assert "no worker with this number" in rgun("stacks", "--worker", "7", check=False).stderr


def test_scale_changes_the_number_of_workers():
    rgun("scale", "3")
    wait_for_workers(3)
    host.reload()
    assert json.loads(rgun("status", "--json").stdout)["workers_ready"] == 2


@needs_varlinkctl
def test_varlinkctl_shows_every_interface():
    info = host.run("varlinkctl", "info", CONTROL).stdout
    for interface in ("org.varlink.service", "io.rgun.Server", "io.systemd.Metrics"):
        assert interface in info
        text = host.run("varlinkctl", "introspect", CONTROL, interface).stdout
        assert f"interface {interface}" in text
    assert "method Status" in host.run("varlinkctl", "introspect", CONTROL, "io.rgun.Server").stdout


@needs_varlinkctl
def test_varlinkctl_calls_methods():
    assert call("io.rgun.Server.Status")[0]["pid"] == host.main_pid()
    boots, serves = call("io.rgun.Server.Reload", "--more")
    assert "boots" in boots["message"]
    assert serves["message"] == f"generation {serves['generation']} serves"
    names = [metric["name"] for metric in call("io.systemd.Metrics.List", "--more")]
    assert "io.rgun.Server.requests_queued" in names
    assert names == [family["name"] for family in call("io.systemd.Metrics.Describe", "--more")]


def test_member_of_the_group_may_only_read(readers):
    member = as_nobody("adm")
    wait_for_workers(2)
    assert "2 of 2 ready" in rgun("status", prefix=member).stdout
    for command in ("workers", "requests"):
        rgun(command, prefix=member)
    for command in (("reload",), ("scale", "1"), ("drain",), ("stacks",)):
        done = rgun(*command, prefix=member, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is only for root and the service's user" in done.stderr
    assert json.loads(rgun("status", "--json").stdout)["generation"] == 1


def test_user_outside_the_group_cannot_connect(readers):
    done = rgun("status", prefix=as_nobody("nogroup"), check=False)
    assert done.returncode == 69
    assert "Permission denied" in done.stderr


def test_group_without_the_services_user_is_an_error(probe_app):
    host.configure("probe", probe_app, extra='[control]\ngroup = "adm"\n')
    since = host.journal_cursor()
    host.systemctl("restart", host.SERVICE, check=False)
    host.configure("probe", probe_app)
    assert host.show("ExecMainStatus") == "78"
    assert "write SupplementaryGroups=adm" in host.service_log(since)
    host.restart()


@needs_varlinkctl
def test_second_name_for_systemd_report_serves_metrics():
    unit = pathlib.Path("/run/systemd/system/rgun-report.service")
    unit.write_text(REPORT_UNIT)
    host.systemctl("daemon-reload")
    host.systemctl("start", unit.name)
    names = [metric["name"] for metric in call("io.systemd.Metrics.List", "--more", path=REPORT)]
    assert "io.rgun.Server.workers_ready" in names
    host.systemctl("stop", unit.name)
    assert not pathlib.Path(REPORT).exists()
    unit.unlink()
    host.systemctl("daemon-reload")
