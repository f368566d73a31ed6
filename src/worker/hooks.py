"""The Python part of hooks.rs: finds and calls gunicorn's server hooks.

Embedded into the extension and loaded only if a hook is configured (src/worker/hooks.rs). `call`
does not raise when a hook fails: it returns (kind, summary, traceback, headline), which the
extension reports.
"""

import os

# The prefix of a target in a module that is a configuration file of gunicorn.
MODULE_PREFIX = "python:"


class Hooks:
    """The hooks of one process. All get the same `server` and `worker` objects."""

    def __init__(self, modules, names, directory, worker, server, settings):
        # The modules load.py and hook_objects.py, and a function that returns the module gunicorn_conf.py.
        self.load, self.objects, self.conf = modules
        # Maps the name of a hook to `module:function`, or to `/path/of/file:function` or
        # `python:module:function` for a configuration of gunicorn. Without a function, the
        # configuration is only run.
        self.names = names
        self.directory = directory
        self.settings = settings
        self.cfg = self.objects.Settings(settings)
        self.log = self.objects.logger()
        # `server` is the process id of the daemon and its addresses, `worker` the number of this worker and
        # its incarnation.
        pid, address = server
        self.server = self.objects.Server(pid, self.cfg, self.log, address)
        self.worker = self.objects.Worker(os.getpid(), *worker, pid, self.cfg, self.log)

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
        worker = self.objects.Worker(pid, number, incarnation, self.server.pid, self.cfg, self.log)
        worker.alive = False
        worker.serves(counts_requests=False)
        return self.run("child_exit", self.server, worker)

    def check(self, name):
        """Removes the hook and returns its failure if it does not exist; otherwise returns None."""
        if name not in self.names:
            return None
        try:
            self.find(name)
        except self.load.Failure as failure:
            del self.names[name]
            return failure.outcome
        return None

    def find(self, name):
        """Returns the function of a hook; None if it only runs a file."""
        module, _, attribute = self.names[name].rpartition(":")
        if is_configuration(module):
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

    def execute(self, name, configuration):
        """Executes a configuration, at most once in a process. Returns the name of its module."""
        try:
            module = self.conf().execute(configuration)
        except BaseException as error:  # noqa: BLE001 (sys.exit() in the file is a failure, too)
            raise self.load.failure_of("running", configuration, error, f"hooks.{name}") from None
        # The settings that rgun knows override those of the file, as flags do.
        vars(self.cfg).update(self.conf().settings_of(module), **self.settings)
        return module.__name__

    def wrap(self, application, is_asgi):
        """Returns the application with the hooks around its requests, if a configuration has any."""
        hooked = application
        if any(map(is_configuration, self.names.values())):
            hooked = self.conf().wrap(application, self.worker, is_asgi, self.objects.HookArgument)
        self.worker.serves(counts_requests=hooked is not application)
        return hooked

    def loaded(self, application):
        """Notes the application, once it is imported."""
        self.worker.loaded(application)

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


def is_configuration(target):
    """Returns whether a target is in a configuration of gunicorn, not in a module of `[hooks]`."""
    return target.startswith(("/", MODULE_PREFIX))
