"""The first lines a worker runs: is this an interpreter that can load the extension?

The daemon runs `PYTHON -c <this text> EXTENSION` with the control socket as descriptor 3. The text must parse on
every Python there is (2.7 included), so that a wrong `app.python` is told in one sentence instead of as a
SyntaxError. What cannot run is reported as a Refused message: the byte R, then UTF-8 text (src/channel/control.rs).
"""

import os
import platform
import sys

CONTROL = 3
EX_CONFIG = 78


def refuse(why):
    text = "%s is %s %s%s; rgun needs CPython 3.9 or later, not a free-threaded build; set app.python to one" % (
        sys.executable or "the interpreter",
        platform.python_implementation(),
        platform.python_version(),
        why,
    )
    report(text)


def report(text):
    if not isinstance(text, bytes):
        text = text.encode("utf-8", "replace")
    os.write(CONTROL, b"R" + text[:40000])
    os._exit(EX_CONFIG)


def load(path):
    """Loads the extension under its own name, whatever file it is in."""
    import importlib.machinery
    import importlib.util

    loader = importlib.machinery.ExtensionFileLoader("rgun_worker", path)
    spec = importlib.util.spec_from_file_location("rgun_worker", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["rgun_worker"] = module
    loader.exec_module(module)
    return module


def start():
    if platform.python_implementation() != "CPython":
        refuse("")
    if sys.version_info < (3, 9):
        refuse("")
    import sysconfig

    # Py_GIL_DISABLED tells the build; abi3 extensions cannot be loaded there even with the GIL switched on.
    if sysconfig.get_config_var("Py_GIL_DISABLED") or not getattr(sys, "_is_gil_enabled", lambda: True)():
        refuse(" (free-threaded)")
    try:
        main = load(sys.argv[1]).main
    except BaseException as error:
        report(
            "%s (CPython %s) cannot load the extension %s: %s: %s; reinstall rgun, or set app.python to another interpreter"
            % (sys.executable, platform.python_version(), sys.argv[1:], type(error).__name__, error)
        )
    main()


try:
    start()
except SystemExit:
    raise
except BaseException as error:
    report(
        "%s (Python %s) failed before the application was loaded: %s: %s; app.python names this interpreter"
        % (sys.executable, platform.python_version(), type(error).__name__, error)
    )
