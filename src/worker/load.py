"""The Python part of the worker: finds and loads the application, and formats exceptions.

Embedded into the extension and run once (src/worker/python.rs). `load` returns what the extension
reports to the daemon; it never raises for a fault of the configuration or of the application. Runs
on CPython 3.9 and later.

Modules that only failures need are imported when a failure occurs: difflib, pkgutil and traceback
would take a third of the time from the start of a worker to its first request.
"""

import functools
import importlib
import io
import os
import sys
import types

WSGI, ASGI = "wsgi", "asgi"
CONFIG, APP = 0, 1
# The type of functions decorated with functools.lru_cache.
LRU_CACHE_WRAPPER = type(functools.lru_cache(maxsize=None)(len))


class Failure(Exception):
    """A failure to load: cause (CONFIG or APP), summary line, traceback (or empty) and headline.

    The headline is a line without text from the application, which may contain a password. By default
    it is the summary.
    """

    def __init__(self, kind, summary, trace="", headline=None):
        super().__init__(summary)
        # Paths in the summary may have undecodable bytes.
        summary = escape_surrogates(summary)
        self.outcome = (kind, summary, trace, summary if headline is None else escape_surrogates(headline))


def prepare(directory, pythonpath):
    """Puts the application's directories first on sys.path, and removes the entry of `python -c`."""
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    sys.path[:0] = [*pythonpath, directory]
    # Replaces the bootstrap's argv: applications read it (Django's runserver check, argparse's
    # prog).
    sys.argv[:] = ["rgun"]


def load(module, attribute, factory, interface, directory):
    """Returns (application, interface, warning or None, None), or (None, None, None, a Failure's outcome)."""
    warning = None
    try:
        application = find(module, attribute, directory)
        target = f"{module}:{attribute}"
        if factory:
            application = call_factory(application, target)
            target += "()"
        elif is_factory(application):
            warning = (
                f"{target} takes no arguments, so it is called to make the application; "
                f"write {target}() (or --factory) to avoid this warning"
            )
            application = call_factory(application, target)
            target += "()"
        if not callable(application):
            raise Failure(
                CONFIG,
                f"app.target: {target} is {describe_type(application)}, which cannot be called; "
                "name a WSGI application or, for a function that makes one, add ()",
            )
        if interface == WSGI and makes_coroutine(application):
            raise Failure(
                CONFIG,
                f"app.interface: {target} is an ASGI application, and the setting (--interface, "
                "--worker-class) is for WSGI; remove it, or write asgi",
            )
        return application, interface if interface != "auto" else detect(application), warning, None
    except Failure as failure:
        return None, None, None, failure.outcome


def find(module, attribute, directory, key="app.target"):
    """Imports the module and follows the dotted attribute; `key` is the setting that names them."""
    found = import_module(module, directory, key)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            missing = f"{key}: module {module} has no attribute {attribute}; correct {key}"
            raise Failure(
                CONFIG, missing_attribute(module, attribute, name, found, error, key), "", missing
            ) from None
        except BaseException as error:  # noqa: BLE001 (a module's __getattr__ or a property may raise anything)
            raise failure_of("looking up", f"{module}:{attribute}", error, key) from None
    return found


def import_module(module, directory, key):
    """Imports a module that the setting `key` names."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A configuration error only if the target or a package on its path is missing. A missing
        # import of the application is the application's fault and needs a traceback.
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            missing = f"{key}: there is no module {error.name}; correct {key}"
            raise Failure(CONFIG, missing_module(module, error, directory, key), "", missing) from None
        raise failure_of("importing", module, error, key) from None
    except BaseException as error:  # noqa: BLE001 (SystemExit and KeyboardInterrupt at import are failures too)
        raise failure_of("importing", module, error, key) from None


def call_factory(factory, target):
    """Returns the application that a factory creates, or raises a Failure."""
    if not callable(factory):
        raise Failure(
            CONFIG,
            f"app.target: {target} is {describe_type(factory)}, which cannot be called; "
            "remove the () from app.target",
        )
    try:
        return factory()
    except BaseException as error:  # noqa: BLE001 (any exception is a failure of the application)
        raise failure_of("calling", target + "()", error) from None


def failure_of(doing, what, error, key="app.target"):
    """Returns the Failure for an exception of the application or a hook, which the setting `key` names."""
    summary, trace = describe(error)
    named = "" if key == "app.target" else f"{key}: "
    doing = f"{named}{doing} {what} raised"
    return Failure(APP, f"{doing} {summary}", trace, f"{doing} {headline(error)}")


def missing_module(module, error, directory, key):
    """Returns one line about a missing module."""
    package = error.name.rpartition(".")[0]
    try:
        path = sys.modules[package].__path__ if package else [directory]
    except (KeyError, AttributeError):
        return f"{key}: there is no module {module}: {error.args[0]}; correct {key}"
    import pkgutil

    names = [info.name for info in pkgutil.iter_modules(path)]
    where = os.pathsep.join(path)
    wanted = f" for {module}" if module != error.name else ""
    hint = nearest(error.name.rpartition(".")[2], names)
    return (
        f"{key}: there is no module {error.name}{wanted} in {where} "
        f"or on the rest of sys.path of {sys.executable}{hint}; "
        f"correct {key}, app.directory or app.python"
    )


def missing_attribute(module, attribute, name, owner, error, key):
    """Returns one line about a missing attribute."""
    # The message of the module's own __getattr__ is included.
    own = "" if f"'{name}'" in str(error) else f" ({error})"
    names = [each for each in dir(owner) if not each.startswith("_")]
    file = f" ({owner.__file__})" if getattr(owner, "__file__", None) else ""
    syntax = "module:attribute; without :attribute it means application"
    if key != "app.target":
        syntax = "module:function"
    return (
        f"{key}: module {module}{file} has no attribute {attribute}{own}{nearest(name, names)}; "
        f"correct {key} ({syntax})"
    )


def nearest(name, names):
    """Returns a hint with similar names, or an empty string."""
    import difflib

    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if not close and name == "application":
        # gunicorn's default name; most Flask projects call it app.
        close = [each for each in ("app", "create_app", "wsgi_app") if each in names]
    return f" (is it {' or '.join(close)}?)" if close else ""


def describe_type(value):
    """Describes a value by its type, for a message."""
    return "None" if value is None else f"an object of type {type(value).__name__}"


def detect(application):
    """Detects WSGI or ASGI by the signature; does not call the application."""
    while isinstance(application, functools.partial):
        application = application.func
    # A class as the application: its instances are the response iterable (WSGI), or are called
    # (ASGI 2).
    if isinstance(application, type) and is_coroutine_function(
        getattr(application, "__call__", None)  # noqa: B004 (the method itself is needed)
    ):
        return ASGI
    # ASGI 3 is called with scope, receive and send, ASGI 2 with scope; WSGI with environ and
    # start_response.
    is_coroutine, n_needed = call_signature(application)
    return ASGI if is_coroutine or n_needed in (1, 3) else WSGI


def makes_coroutine(application):
    """Returns whether calling the application certainly makes a coroutine, which no WSGI application does."""
    while isinstance(application, functools.partial):
        application = application.func
    return not isinstance(application, type) and call_signature(application)[0]


def is_factory(candidate):
    """Returns whether this is an application factory: a callable without arguments. Does not call it."""
    if not callable(candidate):
        return False
    if isinstance(candidate, type):
        # A class is a factory if its constructor needs no arguments and its instances are callable.
        # Otherwise it is an application whose instances each serve one request.
        is_plain = type(candidate).__call__ is type.__call__
        makes_callables = any("__call__" in base.__dict__ for base in candidate.__mro__)
        if not (is_plain and makes_callables):
            return False
        if candidate.__init__ is object.__init__:
            return candidate.__new__ is object.__new__
        return takes_no_arguments(candidate.__init__, 1)
    if isinstance(candidate, functools.partial):
        import inspect

        try:
            parameters = inspect.signature(candidate).parameters.values()
        except (TypeError, ValueError):
            return False
        is_optional = [each.default is not each.empty or each.kind is each.VAR_KEYWORD for each in parameters]
        return all(is_optional) and not is_coroutine_function(candidate.func)
    # functools.wraps and lru_cache: the wrapped function decides.
    while isinstance(candidate, (types.FunctionType, LRU_CACHE_WRAPPER)) and hasattr(
        candidate, "__wrapped__"
    ):
        candidate = candidate.__wrapped__
    if isinstance(candidate, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return takes_no_arguments(candidate, 0)
    return takes_no_arguments(type(candidate).__call__, 1)


def takes_no_arguments(call, n_bound):
    """Returns whether `call` can be called with no arguments besides the `n_bound` bound arguments.

    False also if its first parameter is named like that of an application: `environ`, `env` or
    `scope`.
    """
    if isinstance(call, types.MethodType):
        call, n_bound = call.__func__, 1
    code = getattr(call, "__code__", None)
    if code is None or code.co_flags & 0x04 or is_coroutine_function(call):  # CO_VARARGS
        return False
    n_needed = code.co_argcount - n_bound - len(call.__defaults__ or ())
    has_required_keywords = code.co_kwonlyargcount > len(call.__kwdefaults__ or ())
    first = code.co_varnames[n_bound : n_bound + 1] if code.co_argcount > n_bound else ()
    # These are the first arguments of an application, even if all its arguments have defaults.
    is_application = first in (("environ",), ("env",), ("scope",))
    return n_needed <= 0 and not has_required_keywords and not is_application


def patching_library():
    """Returns the library that has monkey-patched the threads or sockets of the standard library, or None."""
    monkey = sys.modules.get("gevent.monkey")
    modules = ("threading", "_thread", "socket", "select", "queue")
    if monkey is not None and any(map(monkey.is_module_patched, modules)):
        return "gevent"
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and any(map(patcher.is_monkey_patched, ("thread", "socket", "select"))):
        return "eventlet"
    return None


def check_patches(is_wsgi, threads, is_zygote, preloads_modules):
    """Returns None, or the failure if a monkey-patched application cannot be served as configured.

    Patched threads are green threads of one native thread. They switch only in the library's own
    waits; the extension waits elsewhere, so they would deadlock. One request at a time works, on
    the main thread.
    """
    library = patching_library()
    if library is None:
        return None
    if preloads_modules:
        return Failure(
            CONFIG,
            f"workers.preload: {library} patches the standard library (monkey patching), but listed modules "
            "may keep what they imported before; write preload = true or false instead of a list",
        ).outcome
    if is_wsgi and threads > 1:
        return Failure(
            CONFIG,
            f"workers.threads = {threads}: {library} patches the application's standard library "
            "(monkey patching), and patched threads cannot serve requests; set workers.threads "
            "(--threads) to 1 and workers.count (--workers) to more, or remove the patching from the "
            "application and its gunicorn.conf.py",
        ).outcome
    if not is_wsgi and library == "eventlet":
        return Failure(
            CONFIG,
            "app.target: eventlet patches the ASGI application's standard library (monkey patching), which "
            "blocks the asyncio event loop; remove the patching from the application",
        ).outcome
    if is_zygote and library == "eventlet":
        return Failure(
            CONFIG,
            "workers.preload: eventlet patches the application's standard library (monkey patching), and a "
            "process that it patched cannot be forked; set workers.preload to false (do not give --preload), "
            "or remove the patching from the application",
        ).outcome
    return None


def is_double_callable(application):
    """Returns whether this is an ASGI 2 application, which returns a callable for a scope (as in asgiref)."""
    if getattr(application, "_asgi_single_callable", False):
        return False
    if getattr(application, "_asgi_double_callable", False):
        return True
    n_given = 0
    while isinstance(application, functools.partial):
        n_given += len(application.args)
        application = application.func
    is_coroutine, n_needed = call_signature(application)
    return not is_coroutine and n_needed is not None and n_needed - n_given == 1


def call_signature(application):
    """Returns whether this is a coroutine function, and how many arguments it needs (None: unknown)."""
    call, n_bound = application, 0
    if isinstance(application, type):
        call, n_bound = application.__init__, 1
    elif not isinstance(application, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        call, n_bound = type(application).__call__, 1
    if isinstance(call, types.MethodType):
        call, n_bound = call.__func__, 1
    code = getattr(call, "__code__", None)
    if is_coroutine_function(call):
        return True, None
    if code is None or code.co_flags & 0x04:  # CO_VARARGS
        return False, None
    return False, code.co_argcount - n_bound - len(call.__defaults__ or ())


def is_coroutine_function(call):
    """Returns what inspect.iscoroutinefunction returns, without importing inspect."""
    code = getattr(call, "__code__", None)
    # CO_COROUTINE, or the mark set by inspect.markcoroutinefunction since 3.12.
    return bool(code and code.co_flags & 0x80) or hasattr(call, "_is_coroutine_mark")


def describe(error):
    """Returns the one-line summary and the traceback, without the frames of the worker."""
    import traceback

    trim(error)
    only = traceback.format_exception_only(type(error), error)
    # A SyntaxError's message comes last, after the source line; notes (PEP 678) come after the
    # message.
    line = only[-1] if isinstance(error, SyntaxError) else only[0]
    lines = line.strip().splitlines() or [type(error).__name__]
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return escape_surrogates(lines[0]), escape_surrogates(trace)


def headline(error):
    """Returns the type of an exception and where it was raised, without its text."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    file = line = None
    if isinstance(error, SyntaxError):
        file, line = error.filename, error.lineno
    frames = error.__traceback__
    while file is None and frames is not None:
        if frames.tb_next is None:
            file, line = frames.tb_frame.f_code.co_filename, frames.tb_lineno
        frames = frames.tb_next
    return escape_surrogates(name if file is None else f"{name} ({file}, line {line})")


def escape_surrogates(text):
    """Escapes lone surrogates (from undecodable file names), because texts on the channel are UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def trim(error):
    """Removes the frames before the application from the traceback: frames of this file and importlib."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = error.__traceback__
        while frames is not None and is_internal(frames.tb_frame.f_code.co_filename):
            frames = frames.tb_next
        # A SyntaxError in the target has no frame of its own; the message has its location.
        if frames is not None or isinstance(error, SyntaxError):
            error.__traceback__ = frames
        error = error.__cause__ or error.__context__


def is_internal(filename):
    """Returns whether a frame's file is embedded in the worker or belongs to importlib."""
    return filename.startswith(("<rgun>", "<frozen importlib", "<string>")) or filename == importlib.__file__


# The attributes that decide which bytes read() returns; a subclass or an object may override them.
READ_ATTRIBUTES = (
    *("read", "readinto", "readall", "tell", "seek", "flush", "fileno", "readable", "closed", "raw"),
    "__getattribute__",
)

# Wrappers whose read() is the read() of their `file`, by module. Their subclasses may read
# otherwise.
WRAPPERS = {
    "tempfile": ("_TemporaryFileWrapper",),
    "django.core.files.base": ("File",),
    "django.core.files.images": ("ImageFile",),
    "django.db.models.fields.files": ("FieldFile", "ImageFieldFile"),
}


def regular_file(filelike):
    """Returns descriptor and position of a file whose bytes read() returns; None for anything else.

    A fileno() alone proves nothing: GzipFile's is of the compressed file. A `file` attribute or
    a base class proves nothing either: an object that reads a range of a file, or decrypts a file,
    may have both.
    """
    try:
        inner = filelike
        for _ in range(4):
            if not is_wrapper(inner):
                break
            inner = inner.file
        if reads_as(inner, io.FileIO):
            raw = inner
        elif reads_as(inner, io.BufferedReader) or reads_as(inner, io.BufferedRandom):
            raw = inner.raw
        else:
            return None
        if not reads_as(raw, io.FileIO) or not raw.readable():
            return None
        if isinstance(inner, io.BufferedRandom):
            # As read() does: written bytes may still be in its buffer.
            inner.flush()
        # The position of the object: the descriptor of a buffered file is further ahead.
        return raw.fileno(), inner.tell()
    except Exception:  # noqa: BLE001 (read() raises the error of a closed or special file)
        return None


def reads_as(filelike, kind):
    """Returns whether an object certainly reads like `kind`, a class of the module io."""
    own = type(filelike)
    return (
        issubclass(own, kind)
        and all(getattr(own, name, None) is getattr(kind, name, None) for name in READ_ATTRIBUTES)
        and vars(filelike).keys().isdisjoint(READ_ATTRIBUTES)
    )


def is_wrapper(filelike):
    """Returns whether an object certainly reads like its `file`."""
    kind = type(filelike)
    names = WRAPPERS.get(kind.__module__, ())
    if (
        kind.__name__ not in names
        or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind
    ):
        return False
    own = vars(filelike).get("read")
    # tempfile's wrapper caches looked-up methods there.
    return own is None or getattr(own, "__wrapped__", None) == filelike.file.read


def exit_forked_child(error):
    """Exits a process that the application forked and in which the application has returned or raised."""
    code = 70
    try:
        if isinstance(error, SystemExit):
            # The exit codes of Python: 0 for None, a number for itself, 1 for anything else.
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if code and not isinstance(error.code, int):
                # As Python does for sys.exit("text").
                sys.stderr.write(f"{error.code}\n")
        elif error is None:
            sys.stderr.write(
                "rgun: a child process forked by the application returned into the server; ending it\n"
            )
        else:
            sys.stderr.write(describe(error)[1])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)
