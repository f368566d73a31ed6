"""Runs gunicorn.conf.py, and prints its settings or calls its hooks.

rgun (src/daemon/cli/gunicorn_conf/helper.rs) starts this script with the application's
interpreter, in the directory where rgun was started. The arguments are "settings" or "hooks",
"file" or "module", the file's path or the module's name, and the names of all settings, separated
by commas. The answers are JSON objects on standard output, with a NUL after each.

With "settings", the script answers once and waits to be killed. With "hooks", the script answers
when the file has run, then once for each line of standard input, which is a hook's name. The further
arguments are the application's directory, in which hooks run, the attributes of `server` in JSON, and the
text of hook_objects.py. The output of the file goes to standard
error. Runs on CPython 3.9 and later.
"""

import os
import sys

out = os.dup(1)
os.dup2(2, 1)
# Lines that wait in a buffer would be lost: with "hooks", the process ends without a flush.
sys.stdout.reconfigure(line_buffering=True)
mode, kind, location, known = sys.argv[1:5]

import fcntl  # noqa: E402 (what these modules print must not go to the pipe)
import importlib  # noqa: E402
import importlib.machinery  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import signal  # noqa: E402
import types  # noqa: E402

MAX_DEPTH = 16


def execute():
    """Executes the file as gunicorn does. Returns its names."""
    if kind == "module":
        return vars(importlib.import_module(location))
    loader = importlib.machinery.SourceFileLoader("__config__", location)
    if location.endswith(".pyc"):
        loader = importlib.machinery.SourcelessFileLoader("__config__", location)
    spec = importlib.util.spec_from_file_location("__config__", location, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["__config__"] = module
    spec.loader.exec_module(module)
    return vars(module)


def plain(value, depth=0):
    """Returns None, a boolean, text (also for numbers), a list, or an object for another value."""
    if depth > MAX_DEPTH:
        return {"type": "a value that contains itself"}
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return number(int(value))
    if isinstance(value, float):
        # As gunicorn: int(value).
        return number(int(value)) if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if isinstance(value, str):
        value = str(value)
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"bytes": list(os.fsencode(value))}
        return value
    if isinstance(value, dict):
        return {"dict": {str(name): plain(each, depth + 1) for name, each in value.items()}}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each, depth + 1) for each in value]
    if isinstance(value, type):
        return value.__module__ + "." + value.__qualname__
    if callable(value):
        return {"function": True}
    return {"type": "an object of type " + type(value).__name__}


def number(value):
    """Returns an integer in decimal, or an error object if it does not fit in 64 bits."""
    return str(value) if abs(value) < 2**63 else {"type": "a huge number"}


def describe(error):
    """Returns the exception's type and message, and the file's line that raised the exception.

    "inner" is the innermost frame, if that frame is in another file.
    """
    import traceback

    lines = traceback.format_exception_only(type(error), error)
    line = lines[-1] if isinstance(error, SyntaxError) else lines[0]
    found = {"summary": unicode(line.strip()), "line": None, "file": None, "inner": None}
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not frame[0].startswith(("<string>", "<frozen importlib"))]
    own = [frame for frame in frames if kind == "module" or same_file(frame[0])]
    if isinstance(error, SyntaxError) and error.filename:
        found["file"], found["line"] = unicode(error.filename), error.lineno
        if same_file(error.filename):
            return found
    if own:
        found["file"], found["line"] = unicode(own[-1][0]), own[-1][1]
    if frames and own and frames[-1] is not own[-1]:
        found["inner"] = unicode(f"{frames[-1][0]}:{frames[-1][1]}")
    if isinstance(error, SyntaxError) and error.filename:
        found["inner"] = unicode(f"{error.filename}:{error.lineno}")
    return found


def same_file(path):
    """Returns whether a path of a traceback is that of the file."""
    return os.path.abspath(path) == os.path.abspath(location)


def unicode(text):
    """Escapes lone surrogates, which come from undecodable bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def settings():
    """Returns what the file sets: settings, other names, which may be misspelled settings, and process state.

    Workers of gunicorn are children of the process that ran the file, so they have its environment variables
    and its directories of modules, too.
    """
    environ, directories = dict(os.environ), list(sys.path)
    names = execute()
    environ = {name: value for name, value in os.environ.items() if environ.get(name) != value}
    directories = [each for each in sys.path if each not in directories and os.path.isdir(each)]
    known_names = known.split(",")
    values = {name: plain(names[name]) for name in known_names if name in names}
    kinds = (types.ModuleType, types.FunctionType, type)
    others = [
        name
        for name, value in names.items()
        if name not in values and not name.startswith("_") and not isinstance(value, kinds)
    ]
    return {
        "values": values,
        "others": [unicode(name) for name in others],
        "environ": [plain(f"{name}={value}") for name, value in environ.items()],
        "directories": [plain(os.path.abspath(each)) for each in directories],
    }


def write(answer):
    """Writes the answer to the pipe."""
    rest = json.dumps(answer).encode() + b"\0"
    while rest:
        rest = rest[os.write(out, rest) :]


def take_input():
    """Returns a copy of standard input, a pipe from rgun. The file gets an empty standard input."""
    pipe = os.dup(0)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    return pipe


def end_with_rgun(pipe):
    """Makes the kernel end this process (SIGIO) when rgun ends: the file may never return."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def make_server(names):
    """Returns the argument of hooks. The daemon's settings override those of the file."""
    objects = types.ModuleType("hook_objects")
    exec(compile(arguments[2], "<rgun>/hook_objects.py", "exec"), vars(objects))
    facts = json.loads(arguments[1])
    own = {name: names[name] for name in known.split(",") if name in names}
    server = objects.Server(
        os.getppid(), objects.Settings({**own, **facts["cfg"]}), objects.logger(), facts["address"]
    )
    server.num_workers = facts["num_workers"]
    return server


def call(names, name, server):
    """Calls a hook. Returns the answer."""
    try:
        function = names[name]
        if isinstance(function, str):
            module, _, attribute = function.rpartition(".")
            function = getattr(importlib.import_module(module), attribute)
        function(server)
    except BaseException as error:  # noqa: BLE001 (sys.exit() in a hook is a failure, too)
        return {"error": describe(error)}
    return {"values": {}}


def serve_hooks(pipe):
    """Executes the file, and calls hooks until the pipe is closed."""
    try:
        names = execute()
        directory = arguments[0]
        os.chdir(directory)
        sys.path.insert(0, directory)
        server = make_server(names)
    except BaseException as error:  # noqa: BLE001 (sys.exit() in the file is a failure, too)
        write({"error": describe(error)})
        return
    write({"values": {}})
    with open(pipe) as commands:
        for line in commands:
            write(call(names, line.strip(), server))


pipe = take_input()
pid = os.getpid()
arguments, sys.argv = sys.argv[5:], ["gunicorn"]
sys.path[:1] = [os.getcwd()]
if mode == "hooks":
    serve_hooks(pipe)
    os._exit(0)
end_with_rgun(pipe)
try:
    answer = settings()
except BaseException as error:  # noqa: BLE001 (sys.exit() in the file is a failure, too)
    answer = {"error": describe(error)}
if os.getpid() != pid:
    # The file forked, and this is the child.
    os._exit(0)
try:
    sys.stdout.flush()
    sys.stderr.flush()
except (OSError, ValueError):
    # The file's output is missing in the log, but the settings are complete.
    pass
write(answer)
while True:
    signal.pause()
