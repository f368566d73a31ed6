"""`--reload`: new code is loaded when files of the application change."""

import os
import subprocess

import pytest
from support.waiting import wait_until

FLAGS = ("--workers", "1", "--reload")
MAIN = """
    import os
    from views import text

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [text().encode()]
"""


def view(text):
    return f"def text():\n    return {text!r}\n"


def wait_for_body(server, body):
    wait_until(f"the answer is {body}", lambda: server.get("/").body == body.encode())


def reloads(server):
    """Returns the number of reloads that files have caused."""
    return server.log().count(" changed; reloading")


@pytest.fixture
def site(project):
    return project(main=MAIN, views=view("first"))


@pytest.fixture
def server(start, site):
    return start("main", site, FLAGS).wait_ready()


def test_changed_module_is_loaded(server, site):
    assert server.get("/").body == b"first"
    (site / "views.py").write_text(view("second"))
    wait_for_body(server, "second")
    server.wait_for_log("views.py changed; reloading")


def test_module_replaced_by_renaming_is_loaded(server, site):
    for text in ("second", "third"):
        (site / "views.py~").write_text(view(text))
        os.replace(site / "views.py~", site / "views.py")
        wait_for_body(server, text)


def test_files_saved_twice_within_a_second_are_loaded(start, site):
    # Python's bytecode cache compares the size of a source and its time in whole seconds. Here the
    # size never changes, and the time seldom does.
    server = start("main", site, FLAGS, {"PYTHONDONTWRITEBYTECODE": ""}).wait_ready()
    for number in range(10):
        (site / "views.py").write_text(view(str(number)))
        wait_for_body(server, str(number))


def test_syntax_error_keeps_the_old_code(server, site):
    (site / "views.py").write_text("def text(:\n")
    server.wait_for_log("reload failed: importing main raised SyntaxError")
    server.wait_for_log('views.py", line 1')
    assert server.get("/").body == b"first"
    (site / "views.py").write_text(view("mended"))
    wait_for_body(server, "mended")


def test_failed_start_is_tried_again_after_a_change(start, project):
    site = project(main=MAIN, views="raise RuntimeError('database down')")
    server = start("main", site, FLAGS)
    line = server.wait_for_log("importing main raised RuntimeError: database down")
    assert " (next attempt when a file changes, or in " in line
    assert server.get("/").status == 503
    project(views=view("mended"))
    wait_for_body(server, "mended")


def test_temporary_name_of_a_saved_file_is_not_shown(start, project):
    site = project(main=MAIN, views="raise RuntimeError('database down')")
    server = start("main", site, FLAGS)
    server.wait_for_log("database down")
    (site / "views.123.py").write_text(view("saved"))
    os.replace(site / "views.123.py", site / "views.py")
    wait_for_body(server, "saved")
    server.wait_for_log("views.py changed; reloading")
    assert "views.123.py" not in server.log()


def test_missing_module_that_is_created_is_loaded(start, project):
    site = project(main=MAIN)
    server = start("main", site, FLAGS)
    server.wait_for_log("No module named 'views'")
    project(views=view("created"))
    wait_for_body(server, "created")


def test_deleted_module_keeps_the_old_code_until_it_is_back(server, site):
    (site / "views.py").unlink()
    server.wait_for_log("reload failed: ")
    assert server.get("/").body == b"first"
    (site / "views.py").write_text(view("back"))
    wait_for_body(server, "back")


def test_git_checkout_of_many_files_is_one_reload(start, project):
    site = project(main=MAIN, views=view("first"), **{f"pkg__m{i}": "" for i in range(300)})
    project(views="from pkg import " + ", ".join(f"m{i}" for i in range(300)) + "\n" + view("first"))

    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", site, *identity, *words], check=True, capture_output=True)

    (site / ".gitignore").write_text("__pycache__\n")
    git("init", "--initial-branch=old")
    git("add", ".")
    git("commit", "--message=old")
    git("checkout", "-b", "new")
    project(views=(site / "views.py").read_text().replace("first", "second"))
    project(**{f"pkg__m{i}": "x = 1" for i in range(300)})
    git("commit", "--all", "--message=new")
    git("checkout", "old")
    server = start("main", site, FLAGS).wait_ready()
    assert server.get("/").body == b"first"
    git("checkout", "new")
    wait_for_body(server, "second")
    server.wait_for_log("and 300 other files changed; reloading")
    assert reloads(server) == 1


def test_late_import_outside_the_directory_is_watched(start, project, tmp_path_factory):
    outside = tmp_path_factory.mktemp("editable")
    (outside / "late.py").write_text(view("first"))
    site = project(
        main=f"""
        import sys
        sys.path.append({str(outside)!r})

        def application(environ, start_response):
            import late
            start_response("200 OK", [])
            return [late.text().encode()]
        """
    )
    server = start("main", site, (*FLAGS, "--log-level", "debug")).wait_ready()
    assert server.get("/").body == b"first"
    # The daemon asks the worker for later imports every 2 s.
    server.wait_for_log("late.py")
    (outside / "late.py").write_text(view("second"))
    wait_for_body(server, "second")


def test_file_that_nothing_imports_causes_no_reload(server, site):
    for name in ("unused.py", "notes.txt", "views.py~", ".views.py.swp", "db.sqlite3"):
        (site / name).write_text("x = 1\n")
    (site / "views.py").write_text(view("second"))
    wait_for_body(server, "second")
    server.wait_for_log("views.py changed; reloading")
    assert reloads(server) == 1


@pytest.mark.parametrize("name", [".env", "templates/mail.txt", "pages/index.html"])
def test_template_and_environment_file_cause_a_reload(server, site, name):
    (site / name).parent.mkdir(exist_ok=True)
    (site / name).write_text("A=1\n")
    server.wait_for_log(f"{name} changed; reloading")
    server.wait_for_log("reloaded: generation 2 serves")


def test_include_and_exclude_flags_choose_the_watched_files(start, site):
    flags = ("--reload-include", "*.css", "--reload-include=conf/app.yaml", "--reload-exclude=generated")
    for directory in ("conf", "generated"):
        (site / directory).mkdir()
    server = start("main", site, (*FLAGS, *flags)).wait_ready()
    (site / "generated" / "page.html").write_text("")
    for number, name in enumerate(("conf/app.yaml", "a.css"), 2):
        (site / name).write_text("")
        server.wait_for_log(f"{name} changed; reloading")
        server.wait_for_log(f"reloaded: generation {number} serves")
    assert reloads(server) == 2


def test_polling_finds_changed_modules(start, site):
    server = start("main", site, (*FLAGS, "--reload-engine", "poll")).wait_ready()
    for text in ("second", "third"):
        (site / "views.py").write_text(view(text))
        wait_for_body(server, text)


def test_preloaded_application_is_loaded_again(start, site):
    server = start("main", site, (*FLAGS, "--preload")).wait_ready()
    (site / "views.py").write_text(view("second"))
    wait_for_body(server, "second")


def test_link_to_a_directory_is_followed(start, site, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "current"
    link.symlink_to(site)
    server = start("main", link, FLAGS).wait_ready()
    (site / "views.py").write_text(view("second"))
    wait_for_body(server, "second")
    assert "views.py changed" in server.wait_for_log("changed; reloading")


def test_asgi_application_is_loaded_again(start, project):
    def main(text):
        return f"""
        async def app(scope, receive, send):
            assert scope["type"] == "http"
            await send({{"type": "http.response.start", "status": 200, "headers": []}})
            await send({{"type": "http.response.body", "body": b"{text}"}})
        """

    site = project(asgi=main("first"))
    server = start("asgi:app", site, FLAGS).wait_ready()
    assert server.get("/").body == b"first"
    project(asgi=main("second"))
    wait_for_body(server, "second")


def test_django_template_outside_the_directory_causes_a_reload(start, project, tmp_path_factory):
    pages = tmp_path_factory.mktemp("pages")
    (pages / "index.txt").write_text("first")
    site = project(
        main=f"""
        import django
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.shortcuts import render
        from django.urls import path

        backend = "django.template.backends.django.DjangoTemplates"
        settings.configure(
            ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="a",
            TEMPLATES=[{{"BACKEND": backend, "DIRS": [{str(pages)!r}]}}],
        )
        urlpatterns = [path("", lambda request: render(request, "index.txt"))]
        application = get_wsgi_application()
        """
    )
    server = start("main", site, FLAGS).wait_ready()
    assert server.get("/").body == b"first"
    (pages / "index.txt").write_text("second")
    # Without debug, Django caches the template until it is loaded again.
    wait_for_body(server, "second")


def test_flask_template_causes_a_reload(start, project):
    site = project(
        main="""
        from flask import Flask, render_template

        application = Flask(__name__)

        @application.get("/")
        def index():
            return render_template("index.html")
        """
    )
    (site / "templates").mkdir()
    (site / "templates" / "index.html").write_text("first")
    server = start("main", site, FLAGS).wait_ready()
    assert server.get("/").body == b"first"
    (site / "templates" / "index.html").write_text("second")
    wait_for_body(server, "second")


def test_one_worker_refuses_no_request_while_files_change(server, site):
    for number in range(5):
        (site / "views.py").write_text(view(str(number)))

        def is_new(body=b"%d" % number):
            response = server.get("/")
            assert response.status == 200
            return response.body == body

        wait_until("the new code answers", is_new)


def test_reload_settings_of_gunicorn_conf_apply(start, site):
    (site / "gunicorn.conf.py").write_text("reload = True\nreload_extra_files = ['conf.yaml']\nworkers = 1\n")
    server = start("main", site, ("-c", site / "gunicorn.conf.py")).wait_ready()
    (site / "conf.yaml").write_text("")
    server.wait_for_log("conf.yaml changed; reloading")
