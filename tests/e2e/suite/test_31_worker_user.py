"""`workers.user`: workers that run as another user than the daemon, with the packaged drop-in."""

import contextlib
import pathlib
import pwd
import re
import shutil
import signal

import host
import pytest
from support.processes import children
from support.waiting import wait_until

USER = "shop"
# A member of the group adm.
READER = "shop-reader"
EXAMPLE = pathlib.Path("/usr/share/doc/rgun/examples/dropins/worker-user.service.conf")
# Removes every other protection of the daemon, so that a test shows what the user does by itself.
BARE = (
    "SystemCallFilter=\nSystemCallFilter=@system-service ptrace pidfd_getfd kcmp\n"
    "SystemCallFilter=~landlock_create_ruleset\nProtectProc=default\nEnvironment=RGUN_DUMPABLE=1"
)
MEMORY = ["trace", "open_memory", "read_descriptor_name", "read_memory", "take_descriptor", "read_environ"]
CGROUP = ["lift_limit", "leave_cgroup"]
DIRECTORY = pathlib.Path("/srv/hostile")


def example(without=""):
    """Returns the lines of the packaged drop-in, without one word."""
    lines = EXAMPLE.read_text().splitlines()
    text = "\n".join(line for line in lines if line and not line.startswith(("#", "[")))
    return text.replace(without, "") if without else text


def configure(user=USER, more="", **others):
    host.configure("hostile", DIRECTORY, more=f'user = "{user}"\n{more}', **others)


@pytest.fixture(scope="module", autouse=True)
def application(enabled):
    """The attacking application of test_28, and the user that its workers run as."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    shutil.copy(host.HERE / "hostile.py", DIRECTORY)
    lines = pathlib.Path("/run/worker-user.conf")
    lines.write_text(f'u {USER} - "shop" /home/{USER}\nu {READER} - "reader" /\nm {READER} adm\n')
    host.run("systemd-sysusers", str(lines))
    yield
    host.configure("hostile", DIRECTORY)
    host.restart()


@contextlib.contextmanager
def service(lines="", **settings):
    """The service whose workers run as the user, with further lines of [Service]."""
    configure(**settings)
    try:
        with host.drop_in(f"{example()}\n{lines}"):
            yield
            # Leaving the drop-in restarts the service.
            host.configure("hostile", DIRECTORY)
    finally:
        host.configure("hostile", DIRECTORY)


@pytest.fixture
def workers_of_shop():
    with service():
        yield


def attack(name, target=None):
    """Returns the result of an attack on a process, by default the daemon."""
    return host.get(f"/{name}/{target or host.main_pid()}").body.decode()


def status(pid):
    """Returns the fields of /proc/PID/status."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def uid(user):
    return pwd.getpwnam(user).pw_uid


def find_workers():
    """Returns the pids of the workers, or None if there are not exactly two."""
    found = [pid for pid in children(host.main_pid()) if b"rgun: worker" in command_line(pid)]
    return found if len(found) == 2 else None


def command_line(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def two_workers():
    return wait_until("two workers", find_workers)


def assert_workers_are_the_users():
    for pid in two_workers():
        fields = status(pid)
        assert fields["Uid"].split() == [str(uid(USER))] * 4
        assert fields["NoNewPrivs"] == "1"
        for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert int(fields[name], 16) == 0, name


def test_workers_run_as_the_user_without_capabilities(workers_of_shop):
    assert_workers_are_the_users()
    assert status(host.main_pid())["Uid"].split() == [str(uid("rgun"))] * 4
    names = {"HOME": f"/home/{USER}", "USER": USER, "LOGNAME": USER}
    assert {name: attack(f"variable-{name}") for name in names} == names
    assert attack("write_to_stderr") == ""
    # In a cgroup of its own, below the unit's.
    for pid in two_workers():
        assert "/rgun.service/workers/" in pathlib.Path(f"/proc/{pid}/cgroup").read_text()


def test_application_cannot_reach_the_daemon(workers_of_shop):
    results = {name: attack(name) for name in [*MEMORY, *CGROUP, "send_signal", "request_reload"]}
    assert set(results.values()) <= {"EPERM", "EACCES", "ENOENT", "ESRCH"}, results


def test_the_user_alone_protects_the_daemon():
    with service(BARE):
        assert_workers_are_the_users()
        results = {name: attack(name) for name in [*MEMORY, *CGROUP, "send_signal", "request_reload"]}
    assert set(results.values()) <= {"EPERM", "EACCES"}, results


def test_attacks_succeed_on_workers_of_the_daemons_user():
    # Without this, the test above could pass because the attacks are wrong.
    host.configure("hostile", DIRECTORY)
    with host.drop_in(BARE):
        results = {name: attack(name) for name in [*MEMORY, *CGROUP, "send_signal"]}
    assert not set(results.values()) & {"EPERM", "EACCES", "ENOENT", "ESRCH"}, results


def test_files_of_the_daemons_user_are_not_readable(workers_of_shop):
    key = host.STATE / "key.pem"
    key.write_text("a private key")
    key.chmod(0o600)
    shutil.chown(key, "rgun", "rgun")
    assert attack(f"open_file-{key}".replace("/", "|")) == "EACCES"


@pytest.mark.parametrize("preload", [False, True])
def test_reload_crash_and_restart_keep_the_user(preload):
    with service(more=f"preload = {str(preload).lower()}"):
        before = two_workers()
        assert_workers_are_the_users()
        host.reload()
        after = wait_until(
            "new workers", lambda: not set(find_workers() or before) & set(before) and find_workers()
        )
        assert_workers_are_the_users()
        host.run("kill", "-KILL", str(after[0]))
        wait_until("a new worker", lambda: after[0] not in (find_workers() or after))
        assert_workers_are_the_users()
        assert len(host.get("/variable-USER/1").body) == len(USER)
        host.systemctl("restart", host.SERVICE)
        assert_workers_are_the_users()


def test_daemon_can_dump_and_stop_its_workers(workers_of_shop):
    two_workers()
    wait_until(
        "the stacks of both",
        lambda: host.run("rgun", "stacks").stdout.count("(most recent call first)") >= 2,
    )
    # A stopped worker does not react to Stop: only the daemon's signal, or its cgroup, ends it.
    (pid, _) = two_workers()
    host.run("kill", f"-{signal.SIGSTOP.value}", str(pid))
    host.systemctl("stop", host.SERVICE)
    assert not pathlib.Path(f"/proc/{pid}").exists()


def test_member_of_control_group_gets_no_access_from_a_worker():
    lines = "SupplementaryGroups=adm\nSystemCallFilter=@chown\nRuntimeDirectoryMode=0711"
    with service(lines, user=READER, extra='[control]\ngroup = "adm"\n'):
        # The daemon sees the process through its cgroup, or ProtectProc= hides it.
        reply = attack("request_status")
        assert "takes no commands from its workers" in reply or "hides its attributes" in reply, reply


def test_max_memory_without_a_controller_is_reported_as_unknown():
    if (
        "memory"
        in host.cgroup_directory(host.show("ControlGroup") + "/cgroup.controllers").read_text().split()
    ):
        pytest.skip("this machine has a memory controller")
    since = host.journal_cursor()
    with service(more='max_memory = "256MiB"'):
        wait_until(
            "the warning",
            lambda: "workers.max_memory has no effect: the unit needs" in host.service_log(since),
        )


def failed_start(since):
    """Restarts the service, which must fail; returns its exit status and the journal."""
    host.systemctl("reset-failed", host.SERVICE, host.SOCKET, check=False)
    assert host.systemctl("restart", host.SERVICE, check=False).returncode != 0
    wait_until("the service fails", lambda: host.show("ActiveState") == "failed")
    return int(host.show("ExecMainStatus")), host.service_log(since)


@pytest.fixture
def installed_lines():
    """A function that installs lines of [Service] for a start that fails."""

    def install(text):
        host.DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        host.DROP_IN.write_text(f"[Service]\n{text}\n")
        host.systemctl("daemon-reload")

    yield install
    host.DROP_IN.unlink(missing_ok=True)
    host.configure("hostile", DIRECTORY)
    host.systemctl("daemon-reload")
    host.restart()


@pytest.mark.parametrize(
    ("user", "without", "expected"),
    [
        ("no-such-user", "", 'workers.user = "no-such-user": there is no such user'),
        (USER, "CAP_KILL", f'workers.user = "{USER}": rgun may not signal workers of another user'),
        (
            USER,
            "CAP_SETUID",
            "rgun may not run its workers as another user (setresuid",
        ),
        (USER, "SystemCallFilter=@setuid capset", "as another user (setgroups(2): Operation not permitted)"),
        ("root", "", 'workers.user = "root": rgun itself does not run as root'),
    ],
)
def test_wrong_user_or_missing_right_fails_with_78(installed_lines, user, without, expected):
    configure(user)
    installed_lines(example(without))
    code, log = failed_start(host.journal_cursor())
    assert code == 78, log
    assert expected in log
    assert "hint: " in log
    assert "may not" in host.status_text() or "user" in host.status_text()


def test_check_runs_the_worker_as_the_user(installed_lines):
    configure()
    installed_lines(example())
    verdict = host.run("rgun", "check").stdout
    assert f"; checked as rgun, as rgun.service runs it; its workers as {USER}" in verdict
    installed_lines(example("CAP_KILL"))
    done = host.run("rgun", "check", check=False)
    assert done.returncode == 78
    assert "rgun.service may not run its workers as another user: it lacks CAP_KILL" in done.stderr
    installed_lines(example("SystemCallFilter=@setuid capset"))
    done = host.run("rgun", "check", check=False)
    assert done.returncode == 78
    # systemd decides which of the calls are in its groups.
    assert re.search(
        r"it lacks the system calls setgroups .*setresuid capset \(SystemCallFilter=\)", done.stderr
    )
    doctor = host.run("rgun", "doctor", check=False)
    assert doctor.returncode == 1
    assert "(SystemCallFilter=)" in doctor.stdout


def test_daemon_may_be_root(installed_lines):
    configure()
    installed_lines(f"{example()}\nUser=root\nGroup=root")
    host.restart()
    assert_workers_are_the_users()
    assert status(host.main_pid())["Uid"].split()[0] == "0"
    host.reload()
    assert_workers_are_the_users()
