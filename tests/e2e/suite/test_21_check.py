"""`rgun check` as root: runs the application as the unit would, and names missing permissions."""

import grp
import json
import pathlib
import shutil

import host
import pytest

EX_USAGE, EX_CONFIG = 64, 78
DROP_IN = pathlib.Path("/run/systemd/system/rgun.service.d/check.conf")

# Reports its process by an exception, which a check prints.
REPORT = """
import json, os
raise RuntimeError("FACTS" + json.dumps({
    "uid": os.getresuid(), "gid": os.getresgid(), "groups": sorted(os.getgroups()),
    "environment": dict(os.environ), "directory": os.getcwd(),
}))
"""

SOUND = """
def application(environ, start_response):
    start_response("200 OK", [])
    return [b""]
"""


def check(*arguments, check=False):
    """Runs `rgun check`; returns its exit status and output."""
    done = host.run("rgun", "check", *arguments, check=check)
    return done.returncode, done.stdout + done.stderr


def user_id(name, *options):
    """Returns the numbers that id prints for a user."""
    return [int(number) for number in host.run("id", *options, name).stdout.split()]


@pytest.fixture
def app(enabled, tmp_path_factory):
    """The directory of an application, which the service's user can read."""
    directory = pathlib.Path("/srv/checked")
    directory.mkdir(exist_ok=True)
    directory.chmod(0o755)
    host.configure("checked", directory)
    mode = host.CONFIG.stat().st_mode & 0o7777
    host.CONFIG.chmod(0o644)
    yield directory
    shutil.rmtree(directory)
    host.CONFIG.chmod(mode)


def test_hook_that_does_not_exist_is_named(app):
    (app / "checked.py").write_text(SOUND + "\ndef forked(server, worker):\n    pass\n")
    for hook, status in (("checked:forked", 0), ("checked:forkde", EX_CONFIG)):
        host.configure("checked", app, extra=f'[hooks]\npost_fork = "{hook}"\n')
        code, text = check()
        assert code == status, text
    assert "hooks.post_fork: module checked" in text
    assert "has no attribute forkde (is it forked?)" in text


@pytest.fixture
def drop_in(enabled):
    """Adds lines to the unit's [Service]."""

    def add(lines):
        DROP_IN.parent.mkdir(parents=True, exist_ok=True)
        DROP_IN.write_text(f"[Service]\n{lines}\n")
        host.systemctl("daemon-reload")

    yield add
    DROP_IN.unlink(missing_ok=True)
    host.systemctl("daemon-reload")


def reported(text):
    """Returns the application's report about its process."""
    return json.loads(text.rpartition("FACTS")[2].splitlines()[0])


def test_sound_application_is_checked_as_the_units_user(app):
    (app / "checked.py").write_text(SOUND)
    code, text = check()
    assert code == 0, text
    assert "checked:application is ready to serve" in text
    assert "checked as rgun, as rgun.service runs it" in text


def test_check_uses_the_units_user_groups_and_environment(app, drop_in):
    drop_in('SupplementaryGroups=video\nEnvironment=A=1 "B=two words"\nEnvironmentFile=-/etc/no-such-file')
    (app / "checked.py").write_text(REPORT)
    code, text = check()
    assert code == EX_CONFIG
    process = reported(text)
    (uid,), (gid,) = user_id("rgun", "-u"), user_id("rgun", "-g")
    video = grp.getgrnam("video").gr_gid
    assert process["uid"] == [uid] * 3
    assert process["gid"] == [gid] * 3
    assert process["groups"] == sorted({gid, video})
    assert process["directory"] == str(app)
    environment = process["environment"]
    assert (environment["A"], environment["B"], environment["USER"]) == ("1", "two words", "rgun")
    assert environment["STATE_DIRECTORY"] == "/var/lib/rgun"
    assert "SUDO_USER" not in environment
    assert "PYTEST_CURRENT_TEST" not in environment


def test_check_without_systemctl_reads_the_unit_files(app, drop_in, tmp_path):
    drop_in("SupplementaryGroups=video")
    (app / "checked.py").write_text(REPORT)
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\nexit 1\n")
    systemctl.chmod(0o755)
    done = host.run("env", f"PATH={tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin", "rgun", "check", check=False)
    assert reported(done.stderr)["uid"] == user_id("rgun", "-u") * 3
    assert len(reported(done.stderr)["groups"]) == 2


def test_user_flag_overrides_the_units_user(app):
    (app / "checked.py").write_text(REPORT)
    _, text = check("--user", "daemon")
    assert reported(text)["uid"] == user_id("daemon", "-u") * 3
    assert reported(text)["groups"] == sorted(user_id("daemon", "-G"))


def test_check_as_root_without_a_unit_requires_user(app):
    (app / "checked.py").write_text(REPORT)
    code, text = check("checked", "--chdir", str(app))
    assert code == EX_USAGE
    assert "--user" in text
    assert "FACTS" not in text, "it was not imported"
    code, text = check("checked", "--chdir", str(app), "--user", "rgun")
    assert reported(text)["uid"] == user_id("rgun", "-u") * 3


def test_unprivileged_check_runs_as_the_caller(app):
    (app / "checked.py").write_text(REPORT)
    done = host.run("runuser", "-u", "daemon", "--", "rgun", "check", check=False)
    assert reported(done.stderr)["uid"] == user_id("daemon", "-u") * 3
    done = host.run("runuser", "-u", "daemon", "--", "rgun", "check", "--user", "root", check=False)
    assert done.returncode == EX_USAGE
    assert "only root" in done.stderr


def test_directory_of_mode_700_is_named(app):
    home = app / "home"
    (home / "site").mkdir(parents=True)
    (home / "site" / "checked.py").write_text(SOUND)
    home.chmod(0o700)
    host.configure("checked", home / "site")
    code, text = check()
    assert code == EX_CONFIG
    on_the_way = f"on the way to app.directory = {home}/site"
    assert f"rgun cannot enter {home}, {on_the_way} (mode 700, root:root)" in text
    home.chmod(0o711)
    code, text = check()
    assert code == 0, text


def test_unreadable_configuration_is_named(app):
    (app / "checked.py").write_text(SOUND)
    host.CONFIG.chmod(0o600)
    code, text = check()
    assert code == EX_CONFIG
    assert f"rgun cannot read {host.CONFIG}, the configuration (mode 600, " in text


def test_file_unreadable_at_import_is_a_permission_error(app):
    secret = app / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    (app / "checked.py").write_text(f"open({str(secret)!r})\n{SOUND}")
    code, text = check()
    assert code == EX_CONFIG
    assert f"PermissionError: [Errno 13] Permission denied: '{secret}'" in text


def django(app, database):
    """Writes an application with this database in its settings."""
    settings = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(database)}}
    configure = f"from django.conf import settings\nsettings.configure(DATABASES={settings!r})\n"
    (app / "checked.py").write_text(configure + SOUND)


def test_unwritable_database_is_named(app):
    data = host.STATE / "checked"
    data.mkdir(parents=True, exist_ok=True)
    database = data / "db.sqlite3"
    database.touch()
    for path in (data, database):
        shutil.chown(path, "root", "root")
    django(app, database)
    code, text = check()
    assert code == EX_CONFIG
    assert f"rgun cannot write {database}" in text
    assert f"rgun cannot write {data}" in text
    for path in (data, database):
        shutil.chown(path, "rgun", "rgun")
    code, text = check()
    assert code == 0, text
    shutil.rmtree(data)


def test_database_read_only_in_the_sandbox_is_named(app):
    database = app / "db.sqlite3"
    database.touch()
    for path in (app, database):
        shutil.chown(path, "rgun", "rgun")
    django(app, database)
    code, text = check()
    assert code == EX_CONFIG
    assert "ProtectSystem=strict of rgun.service" in text
    assert str(database) in text
