"""The files that a worker reports to the daemon for `reload.on_change`."""

import os
import sys

APPLICATION = """
import helper

def application(environ, start_response):
    import later
"""


def spawn(fake, directory, **options):
    return fake.spawn("main", str(directory), report_sources=True, **options)


def write(directory, **modules):
    for name, text in modules.items():
        (directory / f"{name}.py").write_text(text)


def next_sources(worker):
    """Returns the paths of the next report."""
    return worker.next_report("sources")[1]


def test_worker_reports_files_of_the_application(fake, tmp_path):
    write(tmp_path, main=APPLICATION, helper="import json", later="", unused="")
    worker = spawn(fake, tmp_path).wait_ready()
    # Without json, which is in the standard library, and without the worker's own main module.
    ((_, paths),) = [report for report in worker.earlier_reports if report[0] == "sources"]
    assert sorted(paths) == [str(tmp_path / "helper.py"), str(tmp_path / "main.py")]


def test_worker_reports_later_imports_on_request(fake, tmp_path):
    thread = "threading.Thread(target=__import__, args=['later'], daemon=True)"
    text = f"import threading\n{thread}.start()\napplication = print\n"
    write(
        tmp_path, main=text, later="open('begin').close()\nimport last", last="open('imported', 'w').close()"
    )
    for name in ("begin", "imported"):
        os.mkfifo(tmp_path / name)
    worker = spawn(fake, tmp_path, interface="wsgi").wait_ready()
    # Each open() waits for the other end: the thread imports `last` after Ready, and waits in it.
    with open(tmp_path / "begin", "w"), open(tmp_path / "imported"):
        worker.send(b"Q")
        assert str(tmp_path / "last.py") in next_sources(worker)


def test_zygote_reports_for_its_workers(fake, tmp_path):
    write(tmp_path, main=APPLICATION, helper="")
    zygote = spawn(fake, tmp_path, zygote=True)
    assert sorted(next_sources(zygote)) == [str(tmp_path / "helper.py"), str(tmp_path / "main.py")]
    zygote.wait_ready()
    write(tmp_path, later="")
    worker = fake.fork(zygote).wait_ready()
    assert all(name != "sources" for name, *_ in worker.earlier_reports)


def test_failed_import_reports_files_loaded_before(fake, tmp_path):
    write(tmp_path, main="import helper, broken", helper="", broken="not python")
    worker = spawn(fake, tmp_path)
    assert next_sources(worker) == [str(tmp_path / "helper.py")]
    assert worker.next_report("failed")[1] == 1


def test_link_is_reported_with_its_target(fake, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    write(shared, real="")
    write(tmp_path, main="import helper\napplication = print")
    (tmp_path / "helper.py").symlink_to(shared / "real.py")
    paths = next_sources(spawn(fake, tmp_path, interface="wsgi"))
    assert {str(tmp_path / "helper.py"), str(shared / "real.py")} <= set(paths)


def test_installed_packages_are_not_reported(fake, tmp_path):
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    write(packages, installed="")
    write(tmp_path, main="import installed\napplication = print")
    worker = spawn(fake, tmp_path, interface="wsgi", path=[str(packages)])
    assert next_sources(worker) == [str(tmp_path / "main.py")]


def test_template_directories_of_django_end_with_a_slash(fake, tmp_path):
    conf = tmp_path / "stand_in" / "django"
    conf.mkdir(parents=True)
    (conf / "__init__.py").write_text("")
    templates = f"[{{'DIRS': [{str(tmp_path / 'pages')!r}]}}]"
    (conf / "conf.py").write_text(f"class settings:\n    configured = True\n    TEMPLATES = {templates}\n")
    write(tmp_path, main="import django.conf\napplication = print")
    worker = spawn(fake, tmp_path, interface="wsgi", path=[str(tmp_path / "stand_in")])
    assert f"{tmp_path}/pages/" in next_sources(worker)


def test_sources_are_not_reported_without_the_option(fake, tmp_path):
    write(tmp_path, main=APPLICATION, helper="")
    worker = fake.spawn("main", str(tmp_path)).wait_ready()
    assert worker.earlier_reports == [("booting", f"CPython {sys.version.split()[0]}")]
