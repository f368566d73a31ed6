"""`workers.user` in the foreground: workers of a daemon that runs as root run as another user.

Other users cannot enter the directories of pytest, and cannot run every interpreter.
"""

import ctypes
import json
import os
import pathlib
import pwd
import signal
import subprocess
import tempfile

import pytest
from places import Place
from support.daemon import environment
from support.paths import daemon_binary
from support.processes import children
from support.waiting import wait_until

PYTHON = "/usr/bin/python3"
NOBODY = pwd.getpwnam("nobody")
APPLICATION = """
    import json, os, pathlib

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        case = environ["PATH_INFO"].strip("/")
        if case == "print":
            # By its path, as a logging.FileHandler does.
            with open("/dev/stderr", "w") as file:
                file.write("written by path\\n")
        if case == "exit":
            os._exit(1)
        status = pathlib.Path("/proc/self/status").read_text().splitlines()
        answer = dict(line.split(":\\t", 1) for line in status)
        answer.update({name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME")})
        answer["directory"] = os.getcwd()
        return [json.dumps(answer).encode()]
"""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(PYTHON, os.X_OK), reason="needs root and the system's Python"
)


@pytest.fixture
def open_place(start):
    """A place that every user can enter."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        place = Place(pathlib.Path(directory), PYTHON)
        place.write("site_wsgi.py", APPLICATION)

        def starter(target, chdir, flags, env):
            start.python = PYTHON
            return start(target, chdir, flags or ("--workers", "1"), env)

        place.starter = starter
        yield place


def status_of(daemon, path="/"):
    return json.loads(daemon.get(path).body)


def assert_is_nobodys(status, group=NOBODY.pw_gid):
    assert status["Uid"].split() == [str(NOBODY.pw_uid)] * 4
    assert status["Gid"].split() == [str(group)] * 4
    assert status["Groups"].split() == [str(group)]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name


def test_workers_run_as_the_user_of_gunicorns_flag(open_place):
    daemon = open_place.start("-u", "nobody", "-w", "1").wait_ready()
    status = status_of(daemon)
    assert_is_nobodys(status)
    assert [status[name] for name in ("HOME", "USER", "LOGNAME")] == [NOBODY.pw_dir, "nobody", "nobody"]
    assert status["directory"] == str(open_place.directory)
    assert os.stat(f"/proc/{daemon.process.pid}").st_uid == 0, "the daemon keeps its user"


def test_group_and_environment_can_be_set(open_place):
    flags = ("--user", str(NOBODY.pw_uid), "--group", "33", "--env", "HOME=/srv", "-w", "1")
    status = status_of(open_place.start(*flags).wait_ready())
    assert_is_nobodys(status, group=33)
    assert status["HOME"] == "/srv"


def test_group_alone_keeps_the_user(open_place):
    status = status_of(open_place.start("--group", "33", "-w", "1").wait_ready())
    assert (status["Uid"].split()[0], status["Gid"].split()[0]) == ("0", "33")


@pytest.mark.parametrize("flags", [(), ("--preload",)])
def test_reloaded_and_restarted_workers_are_the_users(open_place, flags):
    daemon = open_place.start("--user", "nobody", "-w", "1", *flags).wait_ready()
    first = status_of(daemon)
    assert_is_nobodys(first)
    daemon.reload()
    daemon.wait_for_log("generation 2 serves")
    second = status_of(daemon)
    assert_is_nobodys(second)
    assert daemon.get("/exit").status == 502
    third = status_of(daemon)
    assert_is_nobodys(third)
    assert len({status["Pid"] for status in (first, second, third)}) == 3
    assert daemon.stop() == 0, daemon.log()


def test_gunicorn_conf_sets_the_user_and_a_reload_changes_it(open_place):
    open_place.write("gunicorn.conf.py", "user = 'nobody'\nworkers = 1\n")
    daemon = open_place.start("-c", open_place.directory / "gunicorn.conf.py").wait_ready()
    assert_is_nobodys(status_of(daemon))
    open_place.write("gunicorn.conf.py", "user = 'no-such-user'\nworkers = 1\n")
    daemon.reload()
    daemon.wait_for_log('workers.user = "no-such-user": there is no such user')
    assert_is_nobodys(status_of(daemon))
    open_place.write("gunicorn.conf.py", "workers = 1\n")
    daemon.reload()
    daemon.wait_for_log("generation 2 serves")
    assert status_of(daemon)["Uid"].split()[0] == "0"


def test_worker_can_open_its_standard_error(open_place):
    daemon = open_place.start("--user", "nobody", "-w", "1").wait_ready()
    assert daemon.get("/print").status == 200
    daemon.wait_for_log("written by path")


@pytest.mark.parametrize("flags", [(), ("--preload",)])
def test_worker_dies_with_its_daemon(open_place, flags):
    daemon = open_place.start("--user", "nobody", "-w", "1", *flags).wait_ready()
    assert_is_nobodys(status_of(daemon))
    # This process adopts the orphans, and so sees them end.
    set_subreaper(True)
    try:
        workers = [child for child in children(daemon.process.pid) if is_nobodys(child)]
        assert workers
        # A stopped worker does not notice that its socket was closed: only the kernel's signal ends it.
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        daemon.process.kill()
        daemon.process.wait()
        wait_until("the workers end", lambda: all(is_zombie_or_gone(pid) for pid in workers))
    finally:
        set_subreaper(False)


def set_subreaper(enable):
    PR_SET_CHILD_SUBREAPER = 36
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(enable), 0, 0, 0) == 0


def is_nobodys(pid):
    return os.stat(f"/proc/{pid}").st_uid == NOBODY.pw_uid


def is_zombie_or_gone(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_unreadable_directory_is_named_with_the_user(open_place):
    os.chmod(open_place.directory, 0o700)
    status, output = open_place.run("site_wsgi", "--python", PYTHON, "--user", "nobody", "-b", "127.0.0.1:0")
    assert status == 78, output
    expected = f"cannot start a worker in {open_place.directory} (app.directory) as nobody (workers.user)"
    assert expected in output


@pytest.mark.parametrize("command", [("check", "--user", "root"), ()])
def test_unknown_user_is_refused_with_a_remedy(open_place, command):
    env = {"RGUN_WORKERS_USER": "no-such-user"}
    status, output = open_place.run(*command, "site_wsgi", "--python", PYTHON, env=env)
    assert status == 78, output
    assert 'RGUN_WORKERS_USER: workers.user = "no-such-user": there is no such user' in output
    assert "hint: create it with useradd --system no-such-user" in output


@pytest.mark.parametrize("command", ["check", "serve"])
def test_user_without_rights_is_refused_with_a_remedy(open_place, command):
    words = (["check"] if command == "check" else []) + ["site_wsgi", "--python", PYTHON]
    prefix = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    done = subprocess.run(
        [*prefix, str(daemon_binary()), *words],
        env=environment({"RGUN_WORKERS_USER": "daemon", "RGUN_LISTEN_BIND": "127.0.0.1:0"}),
        cwd=open_place.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 78, output
    assert 'workers.user = "daemon": rgun may not run its workers as another user (setgroups(2)' in output
    assert "run rgun as root" in output
    assert "CAP_KILL" in output


def test_check_boots_the_worker_as_its_user(open_place):
    env = {"RGUN_WORKERS_USER": "nobody"}
    words = ("check", "--user", "root", "site_wsgi", "--python", PYTHON)
    open_place.write("site_wsgi.py", APPLICATION + "\n    print('uid', os.getuid(), flush=True)\n")
    status, output = open_place.run(*words, env=env)
    assert status == 0, output
    assert "uid 65534" in output
    assert "; checked as root; its workers as nobody" in output
    os.chmod(open_place.directory, 0o700)
    status, output = open_place.run(*words, env=env)
    assert status == 78, output
    assert f"nobody cannot read {open_place.directory}, app.directory" in output
