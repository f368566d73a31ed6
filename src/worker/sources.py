"""Lists the files that the application was loaded from, for `reload.on_change`.

Embedded into the extension and run once (src/worker/sources.rs), only if the daemon watches files. Runs on
CPython 3.9 and later.
"""

import importlib.machinery
import os
import sys
import time

# Directories of the interpreter and of installed packages. Their files change when the environment does.
STANDARD_LIBRARY = tuple(
    os.path.dirname(path) + os.sep for path in (os.path.abspath(os.__file__), os.path.realpath(os.__file__))
)
INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
# Bytes of paths in one list: a message to the daemon has at most 96 KiB.
MAX_BYTES = 64 * 1024
# Minimum age in seconds of a source that is cached: a later change then falls into another second.
MIN_CACHE_AGE = 2

# `__file__` of the modules looked at, and the paths returned.
seen = set()
reported = set()
# The number of modules at the last call, so that a call without new modules is cheap.
n_seen = 0


def prepare():
    """Prevents the bytecode cache from storing modules that were saved just now.

    The cache tells versions of a source apart by size and by time in whole seconds. If a file were
    saved twice within a second, with a reload after each, the second reload could load the first
    version.
    """
    write = importlib.machinery.SourceFileLoader.set_data

    def set_data(self, path, data, **options):
        try:
            age = time.time() - os.stat(self.path).st_mtime
        except OSError:
            return
        if age >= MIN_CACHE_AGE:
            write(self, path, data, **options)

    importlib.machinery.SourceFileLoader.set_data = set_data


def new_sources():
    """Returns lists of the paths not returned before; directories end with a slash."""
    global n_seen
    n_modules = len(sys.modules)
    if n_modules == n_seen:
        return []
    n_seen = n_modules
    paths = [path for path in [*module_files(), *template_directories()] if path not in reported]
    reported.update(paths)
    return split(dict.fromkeys(paths))


def module_files():
    """Yields the files of the modules imported since the last call, and the targets of symbolic links."""
    # A copy, because other threads import modules.
    for name, module in list(sys.modules.items()):
        try:
            file = module.__dict__.get("__file__")
        except AttributeError:  # sys.modules may contain any object
            continue
        # The main module is the worker's own.
        if name == "__main__" or not isinstance(file, str) or file in seen:
            continue
        seen.add(file)
        if os.path.isabs(file) and is_own(os.path.normpath(file)):
            yield os.path.normpath(file)
            yield os.path.realpath(file)


def is_own(path):
    """Returns whether it is a file of the application, not of the interpreter or of an installed package."""
    directory = os.path.dirname(path) + os.sep
    return not (
        directory.startswith(STANDARD_LIBRARY) or any(installed in directory for installed in INSTALLED)
    )


def template_directories():
    """Yields the directories of Django's TEMPLATES setting."""
    conf = sys.modules.get("django.conf")
    settings = getattr(conf, "settings", None)
    # An unconfigured object would be configured by reading an attribute.
    if not getattr(settings, "configured", False):
        return
    try:
        directories = [each for engine in settings.TEMPLATES for each in engine.get("DIRS", ())]
        for directory in map(os.path.abspath, map(os.fspath, directories)):
            if is_own(directory):
                yield os.path.join(directory, "")
    except Exception:  # noqa: BLE001 (Django reports wrong settings itself, when it renders a template)
        return


def split(paths):
    """Splits the paths, as bytes, into lists of at most MAX_BYTES."""
    lists, size = [], MAX_BYTES
    for path in map(os.fsencode, paths):
        if size + len(path) > MAX_BYTES:
            lists.append([])
            size = 0
        lists[-1].append(path)
        # The daemon's encoding adds the length of each.
        size += len(path) + 4
    return lists
