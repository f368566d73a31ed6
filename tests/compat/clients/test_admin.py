"""Django's admin in headless Chromium, over HTTP/2. The daemon serves the static files."""

import os
import subprocess
import sys

import pytest
from chromium import Chromium
from support.daemon import Daemon
from support.paths import CLIENTS_APPS

PREPARE = """
import with_admin
from django.core.management import call_command
call_command("migrate", verbosity=0)
call_command("collectstatic", verbosity=0, interactive=False)
from django.contrib.auth.models import User
User.objects.create_superuser("ada", password="a secret")
"""


@pytest.fixture(scope="module")
def admin(tmp_path_factory, certificate):
    """The admin with the superuser ada. Only the daemon serves static files."""
    home = tmp_path_factory.mktemp("admin")
    environment = {"ADMIN_DATABASE": str(home / "database"), "ADMIN_STATIC": str(home / "static")}
    command = [sys.executable, "-B", "-c", PREPARE]
    subprocess.run(command, cwd=CLIENTS_APPS, env={**os.environ, **environment}, check=True)
    (home / "rgun.toml").write_text(f'[[static]]\nurl = "/static/"\ndirectory = "{home}/static"\n')
    flags = ("--workers", "1", "--config", home / "rgun.toml", *certificate)
    daemon = Daemon("with_admin", *flags, chdir=CLIENTS_APPS, bind="127.0.0.1:0", env=environment)
    yield daemon.wait_ready()
    assert daemon.stop() == 0
    assert "panicked" not in daemon.log()


def test_admin_works_in_a_browser_without_errors(admin, tmp_path):
    with Chromium(tmp_path) as chromium, chromium.page() as page:
        page.open(f"{admin.url}/admin/")
        assert page.evaluate("document.title").startswith("Log in")
        page.follow(
            lambda: page.evaluate(
                "document.querySelector('#id_username').value = 'ada';"
                "document.querySelector('#id_password').value = 'a secret';"
                "document.querySelector('#login-form').submit()"
            )
        )
        assert page.evaluate("document.title").startswith("Site administration")
        page.follow(lambda: page.evaluate("document.querySelector('.model-group .addlink').click()"))
        page.follow(
            lambda: page.evaluate(
                "document.querySelector('#id_name').value = 'editors';"
                "document.querySelector('[name=_save]').click()"
            )
        )
        assert "editors" in page.evaluate("document.querySelector('#result_list').innerText")
        assert page.problems == []
        static = {url: protocol for url, protocol in page.protocols.items() if "/static/" in url}
        assert len(static) > 5
        assert set(page.protocols.values()) == {"h2"}
