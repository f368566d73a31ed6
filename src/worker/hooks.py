"""The Python part of hooks.rs: finds and calls gunicorn's server hooks.

Embedded into the extension and loaded only if a hook is configured (src/worker/hooks.rs). `call`
does not raise when a hook fails: it returns (kind, summary, traceback, headline), which the
extension reports.
"""

import logging
import os
import sys
import types

LOGGER = "rgun"


class Server:
    """The `server` argument of hooks: the attributes of gunicorn's arbiter that rgun provides."""

    def __init__(self, pid, cfg, log):
        self.pid = pid
        self.cfg = cfg
        self.log = log

    def __repr__(self):
        return f"<rgun daemon {self.pid}>"


class Worker:
    """The `worker` argument of hooks."""

    def __init__(self, pid, number, age, ppid, cfg, log):
        self.pid = pid
        # The seat, stable over restarts.
        self.number = number
        # Counts the workers that the daemon has started, as gunicorn's does.
        self.age = age
        self.ppid = ppid
        self.cfg = cfg
        self.log = log

    def __repr__(self):
        return f"<rgun worker {self.number} (pid {self.pid})>"


class Hooks:
    """The hooks of one process. All get the same `server` and `worker` objects."""

    def __init__(self, load, conf, names, directory, number, incarnation, daemon, settings):
        self.load = load
        # A function that returns the module gunicorn_conf.py.
        self.conf = conf
        # Maps the name of a hook to `module:function`, `/path/of/file:function`, or
        # `/path/of/file:` to run the file only.
        self.names = names
        self.directory = directory
        self.cfg = types.SimpleNamespace(**settings)
        self.log = logger()
        self.server = Server(daemon, self.cfg, self.log)
        self.worker = Worker(os.getpid(), number, incarnation, daemon, self.cfg, self.log)

    def call(self, name):
        """Calls a hook for this worker."""
        if name == "post_worker_init":
            return self.run(name, self.worker)
        return self.run(name, self.server, self.worker)

    def abort(self):
        """Calls worker_abort for this worker."""
        return self.run("worker_abort", self.worker)

    def child_exit(self, pid, number, incarnation):
        """Calls child_exit for a worker that has exited."""
        worker = Worker(pid, number, incarnation, self.server.pid, self.cfg, self.log)
        return self.run("child_exit", self.server, worker)

    def check(self, name):
        """Removes the hook and returns its failure if it does not exist; otherwise returns None."""
        try:
            self.find(name)
        except self.load.Failure as failure:
            del self.names[name]
            return failure.outcome
        return None

    def find(self, name):
        """Returns the function of a hook; None if it only runs a file."""
        module, _, attribute = self.names[name].rpartition(":")
        if module.startswith("/"):
            module = self.execute(name, module)
        if not attribute:
            return None
        function = self.load.find(module, attribute, self.directory, f"hooks.{name}")
        if not callable(function):
            described = self.load.describe_type(function)
            raise self.load.Failure(
                self.load.CONFIG,
                f"hooks.{name}: {self.names[name]} is {described}, which cannot be called; name a function",
            )
        return function

    def execute(self, name, path):
        """Executes a file, at most once in a process. Returns the name of its module."""
        try:
            return self.conf().execute(path).__name__
        except BaseException as error:  # noqa: BLE001 (sys.exit() in the file is a failure, too)
            raise self.load.failure_of("running", path, error, f"hooks.{name}") from None

    def wrap(self, application, is_asgi):
        """Returns the application with the hooks around its requests, if a configuration file has any."""
        if not any(target.startswith("/") for target in self.names.values()):
            return application
        return self.conf().wrap(application, self.worker, is_asgi)

    def run(self, name, *arguments):
        """Calls a hook. Returns None, or the failure."""
        if name not in self.names:
            return None
        # logging.config disables the loggers that it does not name.
        self.log.disabled = False
        try:
            function = self.find(name)
        except self.load.Failure as failure:
            return failure.outcome
        if function is None:
            return None
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001 (sys.exit() in a hook is a failure, too)
            summary, trace = self.load.describe(error)
            raised = f"hooks.{name}: {self.names[name]} raised"
            return self.load.APP, f"{raised} {summary}", trace, f"{raised} {self.load.headline(error)}"
        return None


def logger():
    """Returns `server.log`, which writes to stderr unless the application has configured that logger."""
    log = logging.getLogger(LOGGER)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("[%(process)d] [%(levelname)s] %(message)s"))
        log.addHandler(handler)
        log.propagate = False
        log.setLevel(logging.INFO)
    return log
