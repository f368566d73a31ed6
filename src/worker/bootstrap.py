"""The first code of a worker: checks that the interpreter can load the extension, and loads it.

The daemon runs `PYTHON -c` with this text (src/daemon/pool/spawn.rs), with the extension's path as
argument and the worker socket as descriptor 3. The text must parse on every version of Python (2.7
included), so that a wrong `app.python` is reported in one sentence and not as a SyntaxError. An
unsuitable interpreter is reported as a Refused message: the byte R, then UTF-8 text
(src/channel/control/mod.rs).
"""
# ruff: noqa: UP031, UP036, BLE001 (old Pythons; every failure must be reported)

import os
import sys

CONTROL = 3
EX_CONFIG = 78
# The file of this process's main module, in the directory of the extension; running the file does
# nothing.
MAIN_MODULE = "rgun_main.py"


def interpreter():
    """Returns the interpreter, such as `/usr/bin/python3.8 (CPython 3.8.10)`."""
    import platform  # costs milliseconds, so imported only for a failure

    return "%s (%s %s)" % (
        sys.executable or "the interpreter",
        platform.python_implementation(),
        platform.python_version(),
    )


def refuse(why):
    report(
        "%s cannot run a worker: %s; rgun needs CPython 3.9 or later, not a free-threaded build; "
        "set app.python to such an interpreter" % (interpreter(), why)
    )


def report(text):
    if not isinstance(text, bytes):
        text = text.encode("utf-8", "replace")
    os.write(CONTROL, b"R" + text[:40000])
    os._exit(EX_CONFIG)


def load(path):
    """Loads the extension from any file and registers it as `rgun_worker`."""
    from importlib.machinery import ExtensionFileLoader, ModuleSpec

    loader = ExtensionFileLoader("rgun_worker", path)
    module = loader.create_module(ModuleSpec("rgun_worker", loader, origin=path))
    sys.modules["rgun_worker"] = module
    loader.exec_module(module)
    return module


def start():
    # Python 2.7 has no sys.implementation; PyPy for 2.7 is recognised by sys.pypy_version_info.
    implementation = getattr(getattr(sys, "implementation", None), "name", "cpython")
    if implementation != "cpython" or hasattr(sys, "pypy_version_info"):
        refuse("it is not CPython")
    if sys.version_info < (3, 9):
        refuse("it is too old")
    # A build without the GIL has the ABI flag t; it cannot load abi3 extensions, not even with the
    # GIL on.
    if "t" in getattr(sys, "abiflags", ""):
        refuse("it is a free-threaded build")
    try:
        main = load(sys.argv[1]).main
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        report(
            "%s cannot load the extension %s: %s: %s; "
            "reinstall rgun, or set app.python to another interpreter"
            % (interpreter(), " ".join(sys.argv[1:]), type(error).__name__, error)
        )
    directory = os.path.dirname(os.path.abspath(sys.argv[1]))
    sys.modules["__main__"].__file__ = os.path.join(directory, MAIN_MODULE)
    main()


try:
    start()
except SystemExit:
    raise
except KeyboardInterrupt:
    # SIGINT before the extension handles it: nothing is wrong with the interpreter.
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
except BaseException as error:
    report(
        "%s, named by app.python, failed in the worker itself: %s: %s"
        % (interpreter(), type(error).__name__, error)
    )
