"""Targets that are factories: detected by their parameters, or named with parentheses."""

import pytest
from support.daemon import run_check

# The factories in FACTORIES_SOURCE, with the interface of the application that each returns.
FACTORIES = {
    "plain": "Wsgi",
    "with_defaults": "Asgi",
    "with_keywords": "Wsgi",
    "cached": "Wsgi",
    "wrapped": "Asgi",
    "bound": "Wsgi",
    "partly": "Asgi",
    "Bare": "Asgi",
    "Configured": "Wsgi",
    "provider": "Wsgi",
}


FACTORIES_SOURCE = """
    import functools

    def wsgi(environ, start_response):
        start_response("200 OK", [])
        return [b"made"]

    async def asgi(scope, receive, send):
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"made"})

    def plain():
        return wsgi

    def with_defaults(config=None, *, debug=False):
        return asgi

    def with_keywords(**settings):
        return wsgi

    @functools.lru_cache(maxsize=None)
    def cached():
        return wsgi

    def traced(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            return function(*args, **kwargs)
        return call

    wrapped = traced(with_defaults)

    def needs(config):
        return asgi

    partly = functools.partial(needs, "production")

    class Bare:
        async def __call__(self, scope, receive, send):
            await asgi(scope, receive, send)

    class Configured:
        def __init__(self, settings=None):
            self.settings = settings

        def __call__(self, environ, start_response):
            return wsgi(environ, start_response)

        def make(self):
            return wsgi

    bound = Configured().make

    class Provider:
        def __call__(self):
            return wsgi

    provider = Provider()

    # None of these objects is a factory.
    def with_default_arguments(environ=None, start_response=None):
        return wsgi(environ, start_response)

    traced_wsgi = traced(wsgi)

    class Iterable:
        def __init__(self, environ, start_response):
            self.parts = wsgi(environ, start_response)

        def __iter__(self):
            return iter(self.parts)

    class Asgi2:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await asgi(self.scope, receive, send)

    def useless():
        return 5

    def broken():
        raise RuntimeError("no database")
"""


@pytest.mark.parametrize("name", FACTORIES)
def test_callable_without_arguments_is_called_as_a_factory(start, project, name):
    server = start(f"made:{name}", project(made=FACTORIES_SOURCE)).wait_ready()
    assert f"made:{name}()" in server.wait_for_log("is called to make the application")
    assert server.get("/").body == b"made"


@pytest.mark.parametrize(
    "name", ["with_default_arguments", "traced_wsgi", "Iterable", "Asgi2", "wsgi", "asgi"]
)
def test_application_is_not_taken_for_a_factory(start, project, name):
    server = start(f"made:{name}", project(made=FACTORIES_SOURCE)).wait_ready()
    assert server.get("/").body == b"made"
    assert "to make the application" not in server.log()


def test_detected_factory_fails_like_a_named_one(python, project):
    directory = project(made=FACTORIES_SOURCE)
    code, text = run_check(python, directory, "made:useless")
    assert code == 78, text
    assert "made:useless() is an object of type int, which cannot be called" in text
    code, text = run_check(python, directory, "made:broken")
    assert code != 0, text
    assert "calling made:broken() raised RuntimeError: no database" in text


def test_preloaded_factory_is_detected(start, project):
    flags = ("--workers", "1", "--preload")
    server = start("made:with_defaults", project(made=FACTORIES_SOURCE), flags).wait_ready()
    assert server.get("/").body == b"made"
