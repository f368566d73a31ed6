"""The arguments and the output of the hooks in gunicorn.conf.py."""

import json

# The attributes that hooks commonly read.
SERVER = (
    "server.address, server.num_workers, server.pid, server.proc_name, server.cfg.threads, server.cfg.bind"
)
WORKER = "worker.age, worker.ppid, worker.cfg.keepalive, worker.cfg.threads, worker.alive"


def test_hooks_of_the_arbiter_read_gunicorns_attributes(place):
    place.write(
        "gunicorn.conf.py",
        f"""
        threads = 2

        def on_starting(server):
            print("on_starting", "%s %s" % (server.address[0], [{SERVER}][1:]))

        def when_ready(server):
            server.log.info("%s", server.WORKERS)
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py", "--threads", "3").wait_ready()
    path, pid = daemon.unix_path, daemon.process.pid
    daemon.wait_for_log(f"on_starting {path} [1, {pid}, 'rgun', 3, ['unix:{path}']]")
    daemon.wait_for_log(
        "when_ready: raised AttributeError: server.WORKERS: rgun does not have this attribute of"
    )
    daemon.wait_for_log(
        "server has address, cfg, log, num_workers, pid, proc_name; remove it from the hook, or"
    )


def test_hooks_of_workers_read_gunicorns_attributes(place):
    place.write(
        "gunicorn.conf.py",
        f"""
        keepalive = 7

        def post_fork(server, worker):
            server.log.info("forked %s %s %s", server.address, worker.nr, [{WORKER}])

        def post_worker_init(worker):
            same = worker.wsgi is worker.app.wsgi() is worker.app.callable
            worker.log.info("loaded %s %s", same, worker.wsgi.__name__)

        def pre_request(worker, req):
            worker.log.info("request %s %s %s", worker.nr, req.version, dict(req.headers).get("CONTENT-TYPE"))

        def worker_exit(server, worker):
            worker.log.info("served %d", worker.nr)
            worker.tmp.last_update()
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    daemon.wait_for_log(f"forked ['{daemon.unix_path}'] 0 [1, {daemon.process.pid}, 7, 1, True]")
    daemon.wait_for_log("loaded True application")
    assert daemon.request("POST", "/STAGE", body=b"a=1", headers={"Content-Type": "text/x"}).status == 200
    daemon.wait_for_log("request 1 (1, 1) text/x")
    assert daemon.stop() == 0
    assert "served 1" in daemon.log()
    assert "raised AttributeError: worker.tmp: rgun does not have this attribute of gunicorn" in daemon.log()


def test_worker_without_request_hooks_has_no_request_count(place):
    place.write("gunicorn.conf.py", "def worker_exit(server, worker):\n    print(worker.nr)\n")
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.stop() == 0
    assert "raised AttributeError: worker.nr: rgun does not have this attribute" in daemon.log()


def test_all_output_of_arbiter_hooks_is_in_the_log(place):
    place.write(
        "gunicorn.conf.py",
        """
        def on_starting(server):
            server.log.info("starting")

        def when_ready(server):
            print("ready now")

        def on_exit(server):
            print("exiting now")
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py")
    for text in ("[INFO] starting", "ready now"):
        daemon.wait_for_log(text)
    assert daemon.stop() == 0
    assert "exiting now" in daemon.log()


def test_records_of_hooks_are_json_in_a_json_log(place):
    place.write(
        "gunicorn.conf.py",
        """
        def on_starting(server):
            server.log.info("starting")

        def post_fork(server, worker):
            server.log.warning("forked")

        def on_exit(server):
            server.log.info("exiting")
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py", "--log-format", "json")
    daemon.wait_for_log("is ready")
    assert daemon.stop() == 0
    entries = [json.loads(line) for line in daemon.log().splitlines()]
    found = {entry["message"]: entry["level"] for entry in entries}
    assert {"starting", "forked", "exiting"} <= set(found), found
    assert [found[text] for text in ("starting", "forked", "exiting")] == ["info", "warn", "info"]


def test_missed_child_exit_is_one_warning_at_the_stop(place):
    place.write("gunicorn.conf.py", "workers = 3\n\ndef child_exit(server, worker):\n    pass\n")
    daemon = place.starter("site_wsgi", place.directory, ("-c", place.directory / "gunicorn.conf.py"))
    daemon.wait_for_log("is ready", 3)
    assert daemon.stop() == 0
    assert daemon.log().count("hooks.child_exit is not called") <= 1, daemon.log()


def test_request_hooks_of_a_module_are_called(place):
    place.write(
        "conf_prod.py",
        """
        def pre_request(worker, req):
            worker.log.info("before %s", req.path)

        def post_request(worker, req, environ, resp):
            worker.log.info("after %s %d", req.path, resp.status_code)
        """,
    )
    daemon = place.start("-c", "python:conf_prod", env={"PYTHONPATH": str(place.directory)}).wait_ready()
    assert daemon.get("/tea").status == 200
    daemon.wait_for_log("before /tea")
    daemon.wait_for_log("after /tea 200")


def test_request_hooks_beside_an_imported_post_fork_are_called(place):
    place.write("forking.py", "def post_fork(server, worker):\n    server.log.info('forked elsewhere')\n")
    place.write(
        "gunicorn.conf.py",
        """
        post_fork = "forking.post_fork"

        def pre_request(worker, req):
            worker.log.info("before %s", req.path)
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    daemon.wait_for_log("forked elsewhere")
    assert daemon.get("/tea").status == 200
    daemon.wait_for_log("before /tea")


def test_request_hooks_of_an_asgi_application_cause_one_warning(place):
    place.write("site_wsgi.py", "async def application(scope, receive, send):\n    raise RuntimeError\n")
    place.write("gunicorn.conf.py", "workers = 2\n\ndef pre_request(worker, req):\n    pass\n")
    daemon = place.starter("site_wsgi", place.directory, ("-c", place.directory / "gunicorn.conf.py"))
    daemon.wait_for_log("is ready", 2)
    daemon.wait_for_log("pre_request: not called for an ASGI application; a middleware")
    assert daemon.stop() == 0
    assert daemon.log().count("not called for an ASGI application") == 1
