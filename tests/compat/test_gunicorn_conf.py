"""gunicorn.conf.py: read by the application's interpreter, its hooks called in the workers."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import tempfile
import textwrap

import pytest
from places import APPLICATION, Place, user_flags
from support.paths import daemon_binary
from support.processes import is_running
from support.waiting import wait_until

# Written like files in use: computed numbers, variables, a fallback for an import, several hooks.
REALISTIC = """
    import multiprocessing
    import os
    import pathlib

    try:
        import a_module_that_nobody_has
    except ImportError:
        a_module_that_nobody_has = None

    here = pathlib.Path(__file__).parent
    name = os.environ.get("SERVICE", "shop")
    max_workers = 4

    bind = ["127.0.0.1:0", f"unix:{here / name}.sock"]
    workers = min(multiprocessing.cpu_count() * 2 + 1, max_workers)
    threads = int(os.getenv("THREADS", "2"))
    worker_class = "gthread"
    worker_connections = 1000
    timeout = 60.0
    keepalive = "5"
    max_requests, max_requests_jitter = 1000, 50
    chdir = here
    raw_env = ["SHOP_NAME=" + name]
    accesslog = "-"
    errorlog = "-"
    loglevel = os.environ.get("LOG_LEVEL", "info")
    proc_name = None
    daemon = False
    user = group = None
    umask = 0o000
    tmp_upload_dir = None
    backlog = 2048
    print("configured", name)

    def post_fork(server, worker):
        server.log.info("worker spawned (pid: %s)", worker.pid)
        os.environ["FORKED"] = str(worker.pid)

    def post_worker_init(worker):
        worker.log.info("initialized %s", name)

    def worker_exit(server, worker):
        worker.log.info("%s is leaving", name)
"""


def test_realistic_file_is_served_as_written(place):
    place.write("gunicorn.conf.py", REALISTIC)
    daemon = place.start("-c", place.directory / "gunicorn.conf.py", env={"SERVICE": "books"})
    daemon.wait_ready()
    assert daemon.get("/SHOP_NAME").body == b"books"
    workers = min(multiprocessing.cpu_count() * 2 + 1, 4)
    daemon.wait_for_log("worker spawned (pid:", workers)
    daemon.wait_for_log("initialized books", workers)
    assert daemon.get("/FORKED").body.isdigit()
    daemon.wait_for_log("configured books", 1 + workers)
    daemon.wait_for_log("is ready", workers)
    # --bind overrides `bind`.
    assert not (place.directory / "books.sock").exists()
    assert daemon.stop() == 0
    assert daemon.log().count("books is leaving") == workers


def test_environment_and_path_of_the_file_reach_the_app(place):
    place.write(
        "gunicorn.conf.py",
        """
        import os
        import pathlib
        import sys

        os.environ["FROM_FILE"] = "é=1"
        os.environ["OVERRIDDEN"] = "by the file"
        raw_env = ["OVERRIDDEN=by raw_env"]
        sys.path.insert(0, str(pathlib.Path(__file__).parent / "modules"))
        sys.path.append("/no/such/directory")
        """,
    )
    (place.directory / "modules").mkdir()
    place.write("modules/settings_of_site.py", "FOUND = 'found'\n")
    imports = "\n    import settings_of_site\n    os.environ['MODULE'] = settings_of_site.FOUND\n"
    place.write("site_wsgi.py", APPLICATION + imports)
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/FROM_FILE").body.decode() == "é=1"
    assert daemon.get("/OVERRIDDEN").body == b"by raw_env"
    assert daemon.get("/MODULE").body == b"found"


def test_access_log_format_of_the_file_is_honoured(place):
    place.write(
        "gunicorn.conf.py",
        """
        accesslog = "-"
        access_log_format = '%(m)s %(U)s %(q)s %(H)s %(s)s %(B)s "%({x-name}i)s" %({vary}o)s %({HOME}e)s'
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    daemon.wait_for_log("%({HOME}e)s is logged as")
    assert daemon.get("/STAGE?a=1", headers={"X-Name": 'with "quotes"'}).body == b"unset"
    daemon.wait_for_log('GET /STAGE a=1 HTTP/1.1 200 5 "with \\"quotes\\"" - -')


def test_unknown_access_log_atom_is_refused_by_name(place):
    output = place.refused("access_log_format = '%(h)s %(x)s'\n")
    assert "has the unknown atom %(x)s" in output
    assert "the atoms are h l u t r" in output


def test_daemon_listens_on_the_addresses_of_the_file(place):
    place.write("gunicorn.conf.py", REALISTIC)
    words = ["site_wsgi", "--python", place.python]
    process = subprocess.Popen(
        [str(word) for word in (daemon_binary(), *words)],
        cwd=place.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = iter(process.stdout.readline, "")
        found = {"reading": False, "shop.sock": False, "listening on 127.0.0.1": False}
        for line in lines:
            found.update({text: True for text in found if text in line})
            if "is ready" in line:
                break
        assert all(found.values()), found
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_module_as_configuration_is_imported(place):
    package = place.directory / "conf"
    package.mkdir()
    (package / "__init__.py").touch()
    place.write(
        "conf/prod.py", "raw_env = ['STAGE=prod']\n\ndef post_fork(server, worker):\n    print('forked')\n"
    )
    status, output = place.run(
        "check", *user_flags(), "site_wsgi", "--python", place.python, "-c", "python:conf.prod"
    )
    assert status == 0, output


def test_gunicorn_cmd_args_name_the_file(place):
    place.write("other.py", "raw_env = ['STAGE=other']\nthreads = 2\n")
    daemon = place.start(env={"GUNICORN_CMD_ARGS": f"-c {place.directory}/other.py --threads 3"})
    assert daemon.wait_ready().get("/STAGE").body == b"other"


def test_reload_reads_the_file_again(place):
    place.write("gunicorn.conf.py", "raw_env = ['STAGE=one']\n")
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/STAGE").body == b"one"
    place.write("gunicorn.conf.py", "raw_env = ['STAGE=two']\n")
    daemon.reload()
    wait_until("the new setting applies", lambda: daemon.get("/STAGE").body == b"two")
    place.write("gunicorn.conf.py", "raw_env = ['STAGE=three']\nraise ValueError('boom')\n")
    daemon.reload()
    daemon.wait_for_log("gunicorn.conf.py:2: raised ValueError: boom")
    assert daemon.get("/STAGE").body == b"two"


def test_hook_that_raises_fails_the_boot(place):
    place.write("gunicorn.conf.py", "def post_fork(server, worker):\n    raise OSError('no pool')\n")
    status, output = place.run("site_wsgi", "--python", place.python)
    assert status != 0
    assert "hooks.post_fork" in output
    assert "OSError: no pool" in output


def test_hooks_of_the_arbiter_are_called_once_each(place):
    place.write(
        "gunicorn.conf.py",
        """
        import os

        raw_env = ["STAGE=live"]
        count = 0

        def note(server, text):
            global count
            count += 1
            stage = os.environ["STAGE"]
            server.log.info("%s %d %s %s %s", text, count, server.pid, stage, server.cfg.raw_env)

        def on_starting(server):
            note(server, "starting")

        def when_ready(server):
            note(server, "ready")

        def on_exit(server):
            note(server, "exiting")
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    pid = daemon.process.pid
    daemon.wait_for_log(f"starting 1 {pid} live ['STAGE=live']")
    daemon.wait_for_log(f"ready 2 {pid}")
    daemon.reload()
    daemon.wait_for_log("is ready", 2)
    assert daemon.stop() == 0
    log = daemon.log()
    assert f"exiting 3 {pid}" in log
    assert log.count("[INFO] ready") == 1


def test_on_starting_that_raises_ends_the_start(place):
    output = place.refused("def on_starting(server):\n    raise OSError('no disk')\n")
    assert "gunicorn.conf.py: on_starting: raised OSError: no disk (" in output
    assert "gunicorn.conf.py:2)" in output


def test_when_ready_that_raises_is_a_warning(place):
    place.write("gunicorn.conf.py", "def when_ready(server):\n    raise OSError('no disk')\n")
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    daemon.wait_for_log("when_ready: raised OSError: no disk (")
    assert daemon.get("/STAGE").body == b"unset"


def test_request_hooks_see_request_and_response(place):
    place.write(
        "gunicorn.conf.py",
        """
        def pre_request(worker, req):
            worker.log.info("before %s %s?%s", req.method, req.path, req.query)

        def post_request(worker, req, environ, resp):
            worker.log.info("after %s %s %d", environ["PATH_INFO"], resp.status, resp.sent)
            if req.path == "/raise":
                raise ValueError("in the hook")
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/tea?a=1").body == b"unset"
    daemon.wait_for_log("before GET /tea?a=1")
    daemon.wait_for_log("after /tea 200 OK 5")
    assert daemon.get("/raise").status == 200
    daemon.wait_for_log("Exception in post_request hook")


def test_worker_abort_is_called_before_the_kill(place):
    place.write(
        "site_wsgi.py",
        """
        import threading

        def application(environ, start_response):
            if environ["PATH_INFO"] == "/hang":
                threading.Event().wait()
            start_response("200 OK", [])
            return [b"served"]
        """,
    )
    place.write(
        "gunicorn.conf.py",
        """
        timeout = 1

        def worker_abort(worker):
            worker.log.info("aborted %s", worker.pid)
            if worker.age > 1:
                raise OSError("no pager")
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/hang").status == 504
    daemon.wait_for_log("[INFO] aborted")
    daemon.wait_for_log("is ready", 2)
    assert daemon.get("/").body == b"served"
    assert daemon.get("/hang").status == 504
    daemon.wait_for_log("OSError: no pager")


def test_worker_abort_that_hangs_is_cut_off(place):
    place.write(
        "site_wsgi.py", "import time\n\ndef application(environ, start_response):\n    time.sleep(60)\n"
    )
    place.write(
        "gunicorn.conf.py",
        """
        import time

        timeout = 1

        def worker_abort(worker):
            print("aborting")
            time.sleep(60)
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/").status == 504
    daemon.wait_for_log("aborting")
    daemon.wait_for_log("is ready", 2)


def test_on_reload_is_called_at_each_reload(place):
    place.write(
        "gunicorn.conf.py",
        """
        count = 0

        def on_reload(server):
            global count
            count += 1
            server.log.info("reload %d", count)
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    daemon.reload()
    daemon.wait_for_log("[INFO] reload 1")
    daemon.wait_for_log("is ready", 2)
    daemon.reload()
    daemon.wait_for_log("[INFO] reload 2")
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\nworkers = os.environ['NOT_SET']\n", "gunicorn.conf.py:2: raised KeyError: 'NOT_SET'"),
        ("workers = = 2\n", "gunicorn.conf.py:1: raised SyntaxError: invalid syntax"),
        ("import sys\nsys.exit('no database')\n", "gunicorn.conf.py:2: raised SystemExit: no database"),
        (
            "import os\nos._exit(7)\n",
            "ended its process before it returned (exit status: 7)",
        ),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "(signal: 9 (SIGKILL))"),
        ("import nowhere\n", "raised ModuleNotFoundError: No module named 'nowhere'"),
        ("workers = 10 ** 400\n", "gunicorn.conf.py: workers: is a huge number"),
        ("bind = []\nbind.append(bind)\n", "gunicorn.conf.py: bind: is"),
        ("bind = ['unix:/a' * 1_000_000]\n", "gunicorn.conf.py: has settings that cannot be read"),
        ("workers = float('nan')\n", 'workers.count = "nan": is not a whole number'),
        ("user = 'a:b'\n", 'gunicorn.conf.py: user: workers.user = "a:b": cannot be a name or a number'),
        (
            "worker_class = 'tornado'\n",
            "worker_class = tornado: rgun has no such worker class",
        ),
    ],
)
def test_wrong_file_is_refused_with_status_78(place, text, expected):
    assert expected in place.refused(text)


def test_error_in_an_imported_module_names_both_places(place):
    place.write("settings_of_site.py", "def load():\n    raise RuntimeError('no vault')\n")
    output = place.refused("import settings_of_site\n\nsettings_of_site.load()\n")
    assert "gunicorn.conf.py:3: raised RuntimeError: no vault (in " in output, output
    assert "settings_of_site.py:2)" in output, output


def test_file_that_forks_is_read_once(place):
    place.write(
        "gunicorn.conf.py",
        "import os\nthreads = 2\nprint('executed')\nif os.fork() == 0:\n    import time\n    child = True\n",
    )
    status, output = place.run("check", *user_flags(), "site_wsgi", "--python", place.python)
    assert status == 0, output


def test_file_with_much_output_does_not_block(place):
    place.write("gunicorn.conf.py", "print('x' * 1_000_000)\nthreads = 2\n")
    status, output = place.run("check", *user_flags(), "site_wsgi", "--python", place.python)
    assert status == 0, output[-2000:]


def test_non_utf8_path_is_accepted_as_a_setting(place):
    directory = os.fsencode(place.directory) + b"/caf\xe9"
    os.mkdir(directory)
    with open(directory + b"/app.py", "w") as file:
        file.write(textwrap.dedent(APPLICATION))
    place.write(
        "gunicorn.conf.py", "import os\nchdir = os.fsdecode(os.fsencode(os.getcwd()) + b'/caf\\xe9')\n"
    )
    status, output = place.run("check", *user_flags(), "app", "--python", place.python)
    assert status == 0, output


def test_relative_file_is_found_in_the_current_directory(place):
    (place.directory / "src").mkdir()
    place.write("src/inner_wsgi.py", APPLICATION)
    place.write("conf.py", "chdir = 'src'\nraw_env = ['STAGE=relative']\n")
    words = ["check", *user_flags(), "inner_wsgi", "--python", place.python, "-c", "conf.py"]
    status, output = place.run(*words)
    assert status == 0, output
    status, output = place.run(*words, "--chdir", "src")
    assert status == 0, output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can check as another user")
def test_check_by_root_runs_the_file_as_the_user():
    # Other users cannot enter the directories of pytest, and cannot run every interpreter.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        place = Place(pathlib.Path(directory), "/usr/bin/python3")
        place.write("gunicorn.conf.py", "import os, sys\nsys.stderr.write(f'uid={os.getuid()}\\n')\n")
        words = ("check", "site_wsgi", "--python", place.python)
        _, output = place.run(*words, "--user", "nobody")
        assert "uid=65534\n" in output
        assert "uid=0" not in output
        status, output = place.run(*words)
        assert status == 64, output
        assert "uid=" not in output


def test_stop_ends_a_file_that_loops_forever(place):
    place.write("gunicorn.conf.py", "import os\nprint('pid', os.getpid(), flush=True)\nwhile True: pass\n")
    process = subprocess.Popen(
        [str(daemon_binary()), "site_wsgi", "--python", str(place.python)],
        cwd=place.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    line = process.stdout.readline()
    pid = int(line.split()[1])
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    process.stdout.close()
    wait_until("the process that reads the file has ended", lambda: not is_running(pid))
