"""The arguments of gunicorn's hooks: `server`, `worker`, and their `cfg` and `log`.

Embedded into the extension, for the hooks of workers (hooks.py), and given to helper.py, which calls the
hooks of gunicorn's arbiter (src/daemon/cli/gunicorn_conf/daemon_hooks.rs). Runs on CPython 3.9 and later.
"""

import logging
import sys

LOGGER = "rgun"


class HookArgument:
    """An argument of hooks. The error about a missing attribute names a remedy."""

    # The name of the argument in gunicorn's documentation.
    called = ""

    def __getattr__(self, name):
        # Called only for a missing attribute. Names with two underscores belong to protocols, e.g. pickle's.
        if name.startswith("__"):
            raise AttributeError(name)
        own = ", ".join(sorted(each for each in vars(self) if not each.startswith("_")))
        raise AttributeError(
            f"{self.called}.{name}: rgun does not have this attribute of gunicorn; {self.called} has {own}; "
            f'remove it from the hook, or write getattr({self.called}, "{name}", None)'
        )


class Settings(HookArgument):
    """`cfg`: the settings of the configuration file, and those whose value rgun knows."""

    called = "cfg"

    def __init__(self, settings):
        vars(self).update(settings)


class Server(HookArgument):
    """The `server` argument: the attributes of gunicorn's arbiter that rgun provides."""

    called = "server"

    def __init__(self, pid, cfg, log, address):
        self.pid = pid
        self.cfg = cfg
        self.log = log
        # As in gunicorn: host and port, or the path of a unix socket.
        self.address = [tuple(each) if isinstance(each, list) else each for each in address]
        self.proc_name = cfg.proc_name

    def __repr__(self):
        return f"<rgun daemon {self.pid}>"


class Worker(HookArgument):
    """The `worker` argument."""

    called = "worker"

    def __init__(self, pid, number, age, ppid, cfg, log):
        self.pid = pid
        # The seat, stable over restarts.
        self.number = number
        # The number of workers that the daemon has started, up to this one, as in gunicorn.
        self.age = age
        self.ppid = ppid
        self.cfg = cfg
        self.log = log
        self.app = Application()
        self.alive = True
        self.booted = False
        # The number of requests. Only hooks around requests count them, see `serves`.
        self.nr = 0

    def loaded(self, application):
        """Notes the application, once it is imported."""
        self.wsgi = self.app.callable = application
        self.booted = True

    def serves(self, counts_requests):
        """Notes that requests follow. If nobody counts them, `nr` would be wrong from now on."""
        if not counts_requests:
            del self.nr

    def __repr__(self):
        return f"<rgun worker {self.number} (pid {self.pid})>"


class Application(HookArgument):
    """`worker.app`: gunicorn's object that loads the application."""

    called = "worker.app"

    def __init__(self):
        self.callable = None

    def wsgi(self):
        """Returns the application."""
        if self.callable is None:
            raise RuntimeError(
                "worker.app.wsgi(): the application is imported after post_fork; use post_worker_init"
            )
        return self.callable


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
