"""Runs gunicorn.conf.py in a worker, calls its hooks around requests, and configures logging.

Embedded into the extension and loaded only if a hook is a function of a file, or app.log_config is set
(src/worker/hooks.rs). Runs on CPython 3.9 and later.
"""

import importlib.machinery
import importlib.util
import json
import logging
import logging.config
import os
import sys
import types

# The name of the module that gunicorn makes of its configuration file.
CONFIGURATION_MODULE = "__config__"

# The loggers of other servers.
SERVER_LOGGERS = (
    "gunicorn.access",
    "gunicorn.error",
    "uvicorn",
    "uvicorn.access",
    "uvicorn.error",
    "hypercorn.access",
    "hypercorn.error",
    "granian.access",
    "_granian",
)

# Gunicorn's default configuration of logging; a dictionary replaces sections of it.
DEFAULT_LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["error_console"], "propagate": True},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": True},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "generic",
            "stream": "ext://sys.stdout",
        },
        "error_console": {
            "class": "logging.StreamHandler",
            "formatter": "generic",
            "stream": "ext://sys.stderr",
        },
    },
    "formatters": {
        "generic": {
            "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
            "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
            "class": "logging.Formatter",
        }
    },
}


# The configuration that has been executed, as hooks name it, and its module.
executed = None, None


def execute(configuration):
    """Executes the file or the module `python:NAME`, at most once in a process, and configures logging.

    Returns the module.
    """
    global executed
    if executed[0] != configuration:
        if configuration.startswith("python:"):
            module = importlib.import_module(configuration[len("python:") :])
            configure_logging(module)
        else:
            module = execute_file(configuration)
        executed = configuration, module
    return executed[1]


def execute_file(path):
    """Executes the file and configures logging. Returns the module."""
    loader = importlib.machinery.SourceFileLoader(CONFIGURATION_MODULE, path)
    if path.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader(CONFIGURATION_MODULE, path)
    spec = importlib.util.spec_from_file_location(CONFIGURATION_MODULE, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[CONFIGURATION_MODULE] = module
    try:
        spec.loader.exec_module(module)
        configure_logging(module)
    except BaseException:
        del sys.modules[CONFIGURATION_MODULE]
        raise
    return module


def settings_of(module):
    """Returns the variables of the configuration, most of which are settings, for `cfg`."""
    kinds = (types.ModuleType, types.FunctionType, type)
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and not isinstance(value, kinds)
    }


def configure_logging(module):
    """Configures logging with logconfig_dict; the daemon passes the other two settings as app.log_config."""
    as_dict = getattr(module, "logconfig_dict", None)
    if as_dict:
        logging.config.dictConfig(completed(as_dict))


def completed(config):
    """Returns a dictionary for dictConfig, with gunicorn's sections in place of missing ones.

    Gunicorn's "root" and "loggers" are left out if the dictionary replaces the handlers that they
    use, as uvicorn's files do.
    """
    result = {**DEFAULT_LOGGING, **config}
    handlers = set(result["handlers"])
    if "root" not in config and "console" not in handlers:
        del result["root"]
    if "loggers" not in config and not {"console", "error_console"} <= handlers:
        del result["loggers"]
    return result


def configure_by_file(load, path):
    """Configures logging with a file. Returns a failure's outcome or None, and a warning or None."""
    try:
        read_log_config(path)
    except BaseException as error:  # noqa: BLE001 (a class that the file names may call sys.exit())
        summary, trace = load.describe(error)
        raised = f"app.log_config: {path} raised"
        summary = f"{raised} {summary}{missing_module(error)}"
        return load.Failure(load.CONFIG, summary, trace, f"{raised} {load.headline(error)}").outcome, None
    return None, warning_about_loggers(path)


def read_log_config(path):
    """Configures logging with a file: JSON, YAML or TOML as its extension or first byte says, else ini."""
    with open(path, "rb") as file:
        content = file.read()
    extension = os.path.splitext(path)[1].lower()
    if extension == ".json" or content.lstrip()[:1] == b"{":
        config = json.loads(content)
    elif extension in (".yaml", ".yml"):
        import yaml

        config = yaml.safe_load(content)
    elif extension == ".toml":
        import tomllib

        config = tomllib.loads(content.decode())
    else:
        logging.config.fileConfig(path, disable_existing_loggers=False)
        return
    if not isinstance(config, dict):
        raise ValueError(f"a dictionary for logging.config is expected, not {type(config).__name__}")
    logging.config.dictConfig(completed(config))


def missing_module(error):
    """Returns the remedy if a module that the file needs, such as uvicorn.logging, is missing."""
    remedy = "install it for the application, or name another class in the file"
    if isinstance(error, ModuleNotFoundError):
        return f"; {remedy}"
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return f" ({error}; {remedy})"
        error = error.__cause__ or error.__context__
    return ""


def warning_about_loggers(path):
    """Returns a warning about configured loggers to which gunicorn or uvicorn would write, or None."""
    loggers = logging.root.manager.loggerDict
    named = [name for name in SERVER_LOGGERS if getattr(loggers.get(name), "handlers", None)]
    if not named:
        return None
    return (
        f"app.log_config: {path} configures {', '.join(named)}; the daemon writes the server's entries "
        "to its own log, so these loggers get the application's records only"
    )


def wrap(application, worker, is_asgi, argument):
    """Returns the application, with the hooks pre_request and post_request around each request.

    `argument` is the base class of the hooks' arguments.
    """
    _, module = executed
    hooks = [name for name in ("pre_request", "post_request") if getattr(module, name, None)]
    if not hooks:
        return application
    if is_asgi:
        if worker.number == 0:
            worker.log.warning(
                "%s: not called for an ASGI application; a middleware of the application sees each request",
                ", ".join(hooks),
            )
        return application
    before, after = getattr(module, "pre_request", None), getattr(module, "post_request", None)
    request_type = type("Request", (RequestFields, argument), {"called": "req"})
    response_type = type("Response", (ResponseFields, argument), {"called": "resp"})
    return HookedApplication(application, worker, before, after, request_type, response_type)


class RequestFields:
    """The `req` argument of hooks: the attributes of gunicorn's request that an environ has."""

    def __init__(self, environ):
        self.method = environ["REQUEST_METHOD"]
        self.path = environ["PATH_INFO"]
        self.query = environ["QUERY_STRING"]
        self.uri = environ.get("RAW_URI") or self.path + ("?" + self.query if self.query else "")
        self.scheme = environ["wsgi.url_scheme"]
        self.remote_addr = environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")
        self.version = tuple(map(int, environ["SERVER_PROTOCOL"].partition("/")[2].split(".")))
        self.headers = [
            (name[5:].replace("_", "-"), value) for name, value in environ.items() if name.startswith("HTTP_")
        ]
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                self.headers.append((name.replace("_", "-"), environ[name]))


class ResponseFields:
    """The `resp` argument of hooks."""

    def __init__(self):
        self.status = None
        self.status_code = None
        self.headers = []
        self.sent = 0


class HookedApplication:
    """A WSGI application with hooks around each request."""

    def __init__(self, application, worker, before, after, request_type, response_type):
        self.application = application
        self.request_type = request_type
        self.response_type = response_type
        self.worker = worker
        self.before = before
        self.after = after
        # As in gunicorn, the function may take the first two or three arguments only.
        code = getattr(after, "__code__", None)
        self.n_arguments = code.co_argcount if code and code.co_argcount in (2, 3) else 4

    def __call__(self, environ, start_response):
        request, response = self.request_type(environ), self.response_type()
        # As in gunicorn, threads may count at the same time, and lose one.
        self.worker.nr += 1
        if self.before is not None:
            self.before(self.worker, request)
        if self.after is None:
            return self.application(environ, start_response)

        def start(status, headers, *exc_info):
            response.status, response.headers = status, headers
            response.status_code = int(status.split(" ", 1)[0])
            return start_response(status, headers, *exc_info)

        def finish():
            try:
                self.after(*(self.worker, request, environ, response)[: self.n_arguments])
            except Exception:
                self.worker.log.exception("Exception in post_request hook")

        try:
            body = self.application(environ, start)
        except BaseException:
            finish()
            raise
        return HookedBody(body, response, finish)


class HookedBody:
    """The body of a response, with a function to call after its end."""

    def __init__(self, body, response, finish):
        self.body = body
        self.response = response
        self.finish = finish

    def __iter__(self):
        for part in self.body:
            self.response.sent += len(part)
            yield part

    def close(self):
        """Closes the body, and calls the function."""
        try:
            if hasattr(self.body, "close"):
                self.body.close()
        finally:
            self.finish()
