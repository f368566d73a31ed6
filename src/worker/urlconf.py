"""Imports Django's URLconf when the worker boots. Django itself imports it at the first request.

A mistake in urls.py or views.py therefore fails the boot, so that a reload keeps the old code, instead
of answering every request with 500. Embedded into the extension and loaded only if the application has
imported Django's handlers (src/worker/application.rs). Runs on CPython 3.9 and later.
"""

import functools
import importlib
import sys
import types

# Maximum depth of wrappers around Django's handler, such as WhiteNoise, in which it is still found.
MAX_WRAPPERS = 4


def load_urlconf(load, application, root_path, is_reload):
    """Imports the URLconf that ROOT_URLCONF names, if the application is Django's handler or wraps it.

    Returns a failure's outcome or None, and a warning or None. An exception is only a warning if
    Django may serve in spite of it: a middleware may choose another URLconf, or the first start needs
    a database that becomes available later. A reload that needs such a database fails instead, and
    the old code keeps serving.
    """
    settings = sys.modules["django.conf"].settings
    handler = sys.modules["django.core.handlers.base"].BaseHandler
    name = getattr(settings, "ROOT_URLCONF", None) if settings.configured else None
    if name is None or not wraps(application, handler, MAX_WRAPPERS):
        return None, None
    error = import_urlconf(name, settings, root_path)
    if error is None:
        return None, None
    what = f"{name} (ROOT_URLCONF)" if isinstance(name, str) else "ROOT_URLCONF"
    failure = load.failure_of("importing", what, error)
    middleware = next(filter(chooses_urlconf, settings.MIDDLEWARE), None)
    if middleware is not None:
        reason = f"{middleware} may choose another URLconf"
    elif not is_reload and not is_lasting(error):
        reason = "Django imports it again at the next request"
    else:
        return failure.outcome, None
    _, summary, trace, _ = failure.outcome
    return None, f"{summary}; continuing, because {reason}\n{trace}"


def is_lasting(error):
    """Returns whether only a change of the code or of the environment can prevent the exception."""
    improper = sys.modules["django.core.exceptions"].ImproperlyConfigured
    return isinstance(
        error, (SyntaxError, ImportError, NameError, AttributeError, TypeError, LookupError, improper)
    )


def wraps(application, handler, n_wrappers):
    """Returns whether the application is an instance of `handler`, or a wrapper of one."""
    if isinstance(application, handler):
        return True
    if n_wrappers == 0:
        return False
    return any(wraps(part, handler, n_wrappers - 1) for part in parts(application))


def parts(wrapper):
    """Returns the objects that a wrapper may call: its attributes, or the variables of a function."""
    if isinstance(wrapper, functools.partial):
        return [wrapper.func, *wrapper.args]
    if isinstance(wrapper, types.MethodType):
        return [wrapper.__self__]
    if isinstance(wrapper, types.FunctionType):
        names = wrapper.__code__.co_names
        cells = [cell.cell_contents for cell in wrapper.__closure__ or () if has_value(cell)]
        return cells + [wrapper.__globals__[name] for name in names if name in wrapper.__globals__]
    if isinstance(wrapper, dict):
        # Channels maps protocols to applications.
        return list(wrapper.values())
    if isinstance(wrapper, (type, types.ModuleType)):
        return []
    return list(getattr(wrapper, "__dict__", {}).values())


def has_value(cell):
    """Returns whether a variable of an enclosing function has been assigned."""
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def import_urlconf(name, settings, root_path):
    """Imports the URLconf with the path prefix of a request. Returns the exception, or None.

    The prefix matters: Django keeps MEDIA_URL and STATIC_URL as they were at the first use, with the
    prefix.
    """
    urls = importlib.import_module("django.urls")
    forced = settings.FORCE_SCRIPT_NAME
    urls.set_script_prefix((root_path if forced is None else forced) or "/")
    try:
        if isinstance(name, str):
            importlib.import_module(name)
        # Raises if the module has no urlpatterns.
        iter(urls.get_resolver().url_patterns)
    except BaseException as error:  # noqa: BLE001 (sys.exit() in the module is a failure, too)
        return error
    finally:
        urls.clear_script_prefix()
    return None


def chooses_urlconf(path):
    """Returns whether the module of a middleware outside Django uses the name `urlconf`.

    A middleware chooses the URLconf of a request by assigning `request.urlconf`.
    """
    if path.startswith("django."):
        return False
    module, _, name = path.rpartition(".")
    middleware = getattr(sys.modules.get(module), name, None)
    modules = {module, *(base.__module__ for base in getattr(middleware, "__mro__", ()))}
    return any(
        mentions_urlconf(code)
        for module in modules
        if not module.startswith("django.") and module in sys.modules
        for code in codes(vars(sys.modules[module]).values())
    )


def codes(values):
    """Yields the code of the functions among these values, and of the methods of classes among them."""
    for value in list(values):
        if isinstance(value, type):
            if not value.__module__.startswith(("django.", "builtins")):
                yield from codes(method for method in vars(value).values() if not isinstance(method, type))
            continue
        code = getattr(getattr(value, "__func__", value), "__code__", None)
        if isinstance(code, types.CodeType):
            yield code


def mentions_urlconf(code):
    """Returns whether a function, or one defined in it, has `urlconf` as an attribute or a text."""
    return (
        "urlconf" in code.co_names
        or "urlconf" in code.co_consts
        or any(mentions_urlconf(inner) for inner in code.co_consts if isinstance(inner, types.CodeType))
    )
