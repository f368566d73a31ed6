"""What a worker cannot do to the daemon and to other workers, although it runs as the same user."""

import ctypes
import pathlib
import shutil

import host
import pytest
from support.waiting import wait_until

SYS_LANDLOCK_CREATE_RULESET = 444
LANDLOCK_CREATE_RULESET_VERSION = 1
REFUSED = {"EPERM", "EACCES", "ENOENT"}
REPLY = "which takes no commands from its workers"
# Drop-ins that remove one protection, so that a test shows what the others do by themselves.
NO_LANDLOCK = "SystemCallFilter=~landlock_create_ruleset\nProtectProc=default"
LANDLOCK_CALLS = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
FILTER = f"@system-service {LANDLOCK_CALLS} ptrace pidfd_getfd kcmp"
NO_FILTER = f"SystemCallFilter=\nSystemCallFilter={FILTER}\nProtectProc=default"


def landlock_version():
    """Returns the version of the kernel's Landlock; -1 if there is none (landlock_create_ruleset(2))."""
    libc = ctypes.CDLL(None)
    return libc.syscall(SYS_LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)


needs_landlock = pytest.mark.skipif(
    landlock_version() < 6, reason="the kernel's Landlock cannot restrict signals: before Linux 6.12"
)


@pytest.fixture(scope="module", autouse=True)
def hostile(enabled):
    """The service running the attacking application with two workers."""
    directory = pathlib.Path("/srv/hostile")
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(host.HERE / "hostile.py", directory)
    host.configure("hostile", directory)
    host.restart()
    return directory


def attack(name, target=None):
    """Returns the result of an attack on a process, by default the daemon."""
    return host.get(f"/{name}/{target or host.main_pid()}").body.decode()


def attack_neighbour(name):
    """Returns the results of an attack of either worker on the other."""
    pair = wait_until("two workers", host.two_workers)

    def results():
        found = {attack(name, target) for target in pair} - {"itself"}
        return found or None

    return wait_until("a worker attacks the other", results)


def attacks_on_memory():
    """Returns the result of each attack on the daemon's memory and descriptors."""
    return {name: attack(name) for name in MEMORY}


def all_refused(results):
    return set(results.values()) <= {"EPERM", "EACCES"}


MEMORY = ["trace", "open_memory", "read_descriptor_name", "read_memory", "take_descriptor"]


def test_worker_cannot_reach_the_daemons_memory():
    results = attacks_on_memory()
    assert set(results.values()) <= REFUSED, results


def test_daemon_is_protected_without_landlock_and_filter():
    with host.drop_in(f"{NO_FILTER}\n{NO_LANDLOCK}"):
        results = attacks_on_memory()
    assert all_refused(results), results


@needs_landlock
def test_landlock_protects_a_dumpable_daemon():
    with host.drop_in(f"{NO_FILTER}\nEnvironment=RGUN_DUMPABLE=1"):
        results = attacks_on_memory()
    assert all_refused(results), results


def test_attacks_succeed_on_a_daemon_without_protection():
    # Without this, the tests above could pass because the attacks are wrong.
    with host.drop_in(f"{NO_FILTER}\n{NO_LANDLOCK}\nEnvironment=RGUN_DUMPABLE=1"):
        results = attacks_on_memory()
    assert not set(results.values()) & REFUSED, results


def test_private_files_of_daemon_belong_to_root():
    user = int(host.run("id", "-u", "rgun").stdout)

    def owner(pid):
        return pathlib.Path(f"/proc/{pid}/environ").stat().st_uid

    assert owner(host.main_pid()) == 0
    # Before it executes the interpreter, a new process is as private as the daemon.
    wait_until(
        "the daemon can read the workers' memory usage",
        lambda: {owner(pid) for pid in host.two_workers() or []} == {user},
    )


@needs_landlock
def test_worker_cannot_signal_the_daemon():
    assert attack("send_signal") == "EPERM"


@needs_landlock
@pytest.mark.parametrize("preload", [False, True])
def test_application_works_as_before(preload, hostile):
    host.configure("hostile", hostile, more=f"preload = {str(preload).lower()}")
    host.restart()
    try:
        assert attack("work") == ""
        assert attack("send_signal") == "EPERM"
        host.reload()
        assert attack("work") == ""
    finally:
        host.configure("hostile", hostile)
        host.restart()


def test_drop_in_permits_signals_to_the_daemon():
    with host.drop_in("SystemCallFilter=~landlock_create_ruleset"):
        assert attack("send_signal") == ""


@needs_landlock
@pytest.mark.parametrize("name", ["lift_limit", "leave_cgroup"])
def test_worker_cannot_write_cgroup_files(name):
    assert attack(name) == "EACCES"


def test_worker_cannot_reload_by_the_control_socket():
    since = host.journal_cursor()
    assert REPLY in attack("request_reload")
    assert "refusing a client of the control socket" in host.service_log(since)


def test_orphan_of_a_worker_cannot_reload():
    reply = pathlib.Path(attack("request_reload_as_orphan"))
    wait_until("the daemon replies", reply.exists)
    assert REPLY in reply.read_text()


def test_worker_outside_its_cgroup_cannot_reload():
    with host.drop_in(NO_LANDLOCK):
        assert attack("leave_cgroup") == ""
        assert REPLY in attack("request_reload")


def test_root_and_the_services_user_may_reload():
    host.reload()
    assert host.run("rgun", "reload").stdout
    done = host.run("setpriv", "--reuid=rgun", "--regid=rgun", "--clear-groups", "rgun", "reload")
    assert done.stdout


@needs_landlock
@pytest.mark.parametrize("name", ["open_memory", "send_signal"])
def test_worker_cannot_attack_another_worker(name):
    with host.drop_in("ProtectProc=default"):
        assert attack_neighbour(name) <= {"EPERM", "EACCES"}
