"""Five guides, followed on a machine where `rgun` replaces one word of their units."""

import contextlib
import pathlib
import pwd

import guides
import host
import pytest
from support.waiting import wait_until

UNITS = pathlib.Path("/etc/systemd/system")
FRONT = ("127.0.0.1", 8080)
NGINX_UNIT = "guide-nginx.service"


@pytest.fixture(scope="module", autouse=True)
def machine(installed):
    """The guides' users, and a machine on which rgun's own units do not run."""
    host.systemctl("stop", host.SERVICE, host.SOCKET, check=False)
    users = ("sammy", "someuser")
    lines = "".join(f"u {user} - - /home/{user} /bin/sh\n" for user in users)
    pathlib.Path("/run/guides.conf").write_text(lines)
    host.run("systemd-sysusers", "/run/guides.conf")
    for user in users:
        pathlib.Path(f"/home/{user}").mkdir(exist_ok=True)
        host.run("chown", f"{user}:", f"/home/{user}")
    yield
    host.systemctl("start", host.SOCKET)


@pytest.fixture
def install():
    """A function that writes units and starts the named ones; all are removed at the end."""
    names = []

    def write(*start, **texts):
        for name, text in texts.items():
            path = UNITS / name.replace("__", ".")
            names.append(path.name)
            path.write_text(text)
        host.systemctl("daemon-reload")
        for unit in start:
            host.systemctl("enable", "--now", unit)

    yield write
    host.systemctl("disable", "--now", *names, check=False)
    host.systemctl("reset-failed", *names, check=False)
    for name in names:
        (UNITS / name).unlink(missing_ok=True)
    host.systemctl("daemon-reload")


@pytest.fixture
def nginx():
    """A function that runs nginx in front of a unix socket."""

    def run(socket):
        pathlib.Path("/run/guide-nginx.conf").write_text(guides.NGINX.format(socket=socket))
        command = ["nginx", "-c", "/run/guide-nginx.conf", "-g", "daemon off;"]
        host.run("systemd-run", f"--unit={NGINX_UNIT}", *command)
        wait_until("nginx listens", lambda: not is_refused(FRONT))

    yield run
    host.systemctl("stop", NGINX_UNIT, check=False)


def is_refused(address):
    try:
        host.request("GET", "/", address=address)
    except ConnectionRefusedError:
        return True
    return False


def facts(address=FRONT):
    """Returns the facts that the application reports about its process; fails if it does not answer."""
    answer = host.request("GET", "/", address=address)
    assert answer.status == 200, answer.text
    return answer.json()


def uid(user):
    return pwd.getpwnam(user).pw_uid


def write(path, text, owner=None):
    """Writes a file of an application, and its directories."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if owner:
        host.run("chown", "-R", f"{owner}:", str(path.parent))


def make_environment(path):
    """Makes a virtual environment that has Debian's packages too, because the machine has no network."""
    host.run("python3", "-m", "venv", "--without-pip", "--system-site-packages", str(path))


def log_of(unit, since):
    """Returns the messages of a unit since a cursor."""
    host.run("journalctl", "--sync")
    options = ["-u", unit, "-o", "cat", "-q", "--no-pager", f"--after-cursor={since}"]
    return host.run("journalctl", *options).stdout


@pytest.fixture(scope="module")
def django_project(machine):
    """The project of the guide, in its virtual environment."""
    directory = pathlib.Path("/home/sammy/myprojectdir")
    if not directory.exists():
        directory.mkdir()
        make_environment(directory / "myprojectenv")
        python = str(directory / "myprojectenv/bin/python")
        host.run(python, "-m", "django", "startproject", "myproject", str(directory))
        settings = directory / "myproject/settings.py"
        settings.write_text(settings.read_text() + "\nALLOWED_HOSTS = ['*']\n")
        (directory / "myproject/urls.py").write_text(guides.DJANGO_URLS)
        host.deploy(directory, 1)
        host.run("chown", "-R", "sammy:www-data", str(directory))
    return directory


def expected_facts(directory):
    prefix = f"{directory}/myprojectenv"
    return {
        "release": 1,
        "uid": uid("sammy"),
        "directory": str(directory),
        "prefix": prefix,
        "client": "127.0.0.1",
    }


def test_django_guide_serves_through_its_socket_and_nginx(django_project, install, nginx):
    since = host.journal_cursor()
    service = guides.DJANGO_SERVICE.format(server="rgun")
    install("gunicorn.socket", gunicorn__socket=guides.DJANGO_SOCKET, gunicorn__service=service)
    nginx("/run/gunicorn.sock")
    assert facts() == expected_facts(django_project)
    assert host.show("ActiveState", "gunicorn.service") == "active"
    assert len(host.processes_of("sammy")) >= 4, "the daemon and three workers"
    with host.load(address=FRONT) as load:
        load.wait_for_more(20)
        host.systemctl("restart", "gunicorn.service")
        load.wait_for_more(20)
    assert not load.faults, load
    host.systemctl("stop", "gunicorn.service")
    log = log_of("gunicorn.service", since)
    assert "listening on unix:/run/gunicorn.sock" in log
    assert "3 workers" in log
    assert "GET / 200" in log, "--access-logfile -"


def test_unit_of_gunicorns_documentation_starts_and_reloads(install):
    directory = pathlib.Path("/home/someuser/applicationroot")
    write(directory / "applicationname/wsgi.py", guides.WSGI.format(name="application"), "someuser")
    host.deploy(directory, 1)
    texts = {"gunicorn__socket": guides.NOTIFY_SOCKET, "gunicorn__service": guides.NOTIFY_SERVICE}
    install("gunicorn.socket", "gunicorn.service", **texts)
    socket = pathlib.Path("/run/gunicorn.sock")
    assert (socket.stat().st_uid, socket.stat().st_mode & 0o777) == (uid("www-data"), 0o660)
    found = facts(str(socket))
    assert (found["release"], found["uid"]) == (1, uid("someuser"))
    assert "ready" in host.show("StatusText", "gunicorn.service")
    pid = host.show("MainPID", "gunicorn.service")
    host.deploy(directory, 2)
    # The command does not wait for the result: its ExecReload= only sends the signal.
    host.systemctl("reload", "gunicorn.service")
    wait_until("the new code serves", lambda: facts(str(socket))["release"] == 2)
    assert host.show("MainPID", "gunicorn.service") == pid
    host.systemctl("restart", "gunicorn.service")
    assert facts(str(socket))["release"] == 2


def test_fastapi_unit_serves_with_the_python_of_its_path(install):
    make_environment("/srv/api/venv")
    write("/srv/api/app/main.py", guides.ASGI)
    since = host.journal_cursor()
    install("fastapi.service", fastapi__service=guides.FASTAPI_SERVICE)
    wait_until("the unit listens", lambda: not is_refused(host.ADDRESS))
    found = facts(host.ADDRESS)
    assert found["prefix"] == "/srv/api/venv"
    assert (found["uid"], found["directory"]) == (uid("www-data"), "/srv/api")
    assert "app.main:app is ASGI: 2 workers, no request timeout" in log_of("fastapi.service", since)
    pid = host.show("MainPID", "fastapi.service")
    host.systemctl("restart", "fastapi.service")
    wait_until("the unit listens", lambda: not is_refused(host.ADDRESS))
    assert facts(host.ADDRESS) == found
    assert host.show("MainPID", "fastapi.service") != pid


def test_flask_unit_with_a_umask_flag_names_the_line_to_write(install, nginx):
    directory = pathlib.Path("/home/sammy/myproject")
    make_environment(directory / "myprojectenv")
    write(directory / "wsgi.py", guides.WSGI.format(name="app"))
    host.deploy(directory, 1)
    since = host.journal_cursor()
    install(myproject__service=guides.FLASK_SERVICE.format(umask="-m 007"))
    host.systemctl("start", "myproject.service")
    failed = ("failed", "64")
    state = ("ActiveState", "ExecMainStatus")
    wait_until(
        "the unit fails", lambda: tuple(host.show(name, "myproject.service") for name in state) == failed
    )
    assert "in the unit, write UMask=0007" in log_of("myproject.service", since)

    service = guides.FLASK_SERVICE.format(umask="").replace("[Service]", "[Service]\nUMask=0007")
    install("myproject.service", myproject__service=service)
    nginx("/run/myproject/myproject.sock")
    wait_until("the unit has its socket", lambda: host.request("GET", "/", address=FRONT).status == 200)
    found = facts()
    assert (found["uid"], found["prefix"]) == (uid("sammy"), f"{directory}/myprojectenv")
    assert found["client"] == "127.0.0.1"


def test_uvicorn_behind_nginx_serves_on_its_unix_socket(install, nginx):
    write("/srv/example/example.py", guides.ASGI)
    install("uvicorn.service", uvicorn__service=guides.UVICORN_SERVICE)
    nginx("/tmp/uvicorn.sock")
    wait_until("the unit has its socket", lambda: host.request("GET", "/", address=FRONT).status == 200)
    found = facts()
    assert (found["uid"], found["directory"]) == (uid("www-data"), "/srv/example")
    assert found["client"] == "127.0.0.1"


@contextlib.contextmanager
def migrated(units):
    """Puts what `rgun migrate` writes into place, and yields what it prints and the service's drop-in."""
    host.run("rm", "-rf", "/root/migrated")
    printed = host.run("rgun", "migrate", "--write", "/root/migrated", *units).stdout
    before = host.CONFIG.read_text()
    drop_ins = [UNITS / f"{unit}.d/migrated.conf" for unit in (host.SERVICE, host.SOCKET)]
    host.systemctl("stop", host.SERVICE, host.SOCKET)
    try:
        host.CONFIG.write_text(pathlib.Path("/root/migrated/rgun.toml").read_text())
        for path in drop_ins:
            path.parent.mkdir(exist_ok=True)
            path.write_text(pathlib.Path("/root/migrated", path.relative_to(UNITS)).read_text())
        host.systemctl("daemon-reload")
        yield printed, drop_ins[0]
    finally:
        host.systemctl("stop", host.SERVICE, host.SOCKET)
        for path in drop_ins:
            path.unlink(missing_ok=True)
        host.CONFIG.write_text(before)
        host.systemctl("daemon-reload")


def test_migrated_django_guide_serves_as_the_same_user(django_project, install, nginx, enabled):
    service = guides.DJANGO_SERVICE.format(server=guides.DJANGO_PEER)
    install(gunicorn__socket=guides.DJANGO_SOCKET, gunicorn__service=service)
    with migrated([str(UNITS / name) for name in ("gunicorn.service", "gunicorn.socket")]) as files:
        printed, drop_in = files
        assert "Requires=gunicorn.socket" not in printed, "rgun.socket takes the address of that unit"
        checked = host.run("rgun", "check", check=False)
        # The database is in the project.
        assert checked.returncode == 78
        assert "write ReadWritePaths=" in checked.stderr
        with drop_in.open("a") as file:
            file.write(f"ReadWritePaths={django_project}\n")
        host.systemctl("daemon-reload")
        host.run("rgun", "check")
        host.systemctl("start", host.SOCKET, host.SERVICE)
        nginx("/run/gunicorn.sock")
        assert facts() == expected_facts(django_project)
        try:
            host.deploy(django_project, 2)
            host.reload()
            assert facts()["release"] == 2
        finally:
            host.deploy(django_project, 1)


def test_migrated_unit_keeps_its_socket_open_to_the_proxy(install, nginx, enabled):
    directory = pathlib.Path("/home/sammy/myproject")
    make_environment(directory / "myprojectenv")
    write(directory / "wsgi.py", guides.WSGI.format(name="app"))
    host.deploy(directory, 1)
    # Sorted before the directory of rgun.service, which has the control socket.
    service = guides.FLASK_SERVICE.format(umask="-m 007").replace(
        "ExecStart=rgun", f"RuntimeDirectory=app\nExecStart={directory}/myprojectenv/bin/gunicorn"
    )
    install(myproject__service=service)
    with migrated([str(UNITS / "myproject.service")]):
        host.systemctl("start", host.SOCKET, host.SERVICE)
        nginx("/run/myproject/myproject.sock")
        assert facts()["uid"] == uid("sammy")
        host.run("rgun", "status")
        assert host.show("UMask") == "0022", "nginx reads what the application writes"
        host.systemctl("restart", host.SERVICE)
        assert facts()["uid"] == uid("sammy"), "the directory of the socket outlives the service"
