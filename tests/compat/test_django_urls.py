"""A mistake in Django's URLconf, which Django imports at the first request, fails a reload and a check."""

import pytest
from support.daemon import run_check

SETTINGS = """
    SECRET_KEY = "for tests"
    ALLOWED_HOSTS = ["*"]
    ROOT_URLCONF = "urls"
    MIDDLEWARE = []
    MEDIA_URL = "media/"
"""
SITE_WSGI = """
    import os
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    from django.core.wsgi import get_wsgi_application
    application = get_wsgi_application()
"""
SITE_ASGI = SITE_WSGI.replace("wsgi", "asgi")
URLS = """
    from django.conf import settings
    from django.urls import path
    import views
    prefix = settings.MEDIA_URL
    urlpatterns = [path("", views.index)]
"""
VIEWS = """
    from django.http import HttpResponse
    def index(request):
        from django.conf import settings
        return HttpResponse("first " + settings.MEDIA_URL)
"""
BROKEN = "def index(request:\n"
RAISED = "importing urls (ROOT_URLCONF) raised SyntaxError"


@pytest.fixture
def site(project):
    return project(settings=SETTINGS, site_wsgi=SITE_WSGI, site_asgi=SITE_ASGI, urls=URLS, views=VIEWS)


def wrapper(expression):
    """Returns the source of an application that wraps Django's."""
    return f"from site_wsgi import application as django\n{expression}\n"


@pytest.mark.parametrize("target", ["site_wsgi", "site_asgi"])
@pytest.mark.parametrize("flags", [(), ("--preload",)])
def test_reload_with_a_broken_view_keeps_the_old_code(start, site, project, target, flags):
    server = start(target, site, ("--workers", "1", *flags)).wait_ready()
    assert server.get("/").body == b"first /media/"
    project(views=BROKEN)
    server.reload()
    server.wait_for_log(f"reload failed: {RAISED}")
    server.wait_for_log('views.py", line 1')
    assert server.get("/").body == b"first /media/"
    project(views=VIEWS.replace("first", "mended"))
    server.reload()
    server.wait_for_log("reloaded: ")
    assert server.get("/").body == b"mended /media/"


def test_changed_view_is_watched_before_any_request(start, site, project):
    server = start("site_wsgi", site, ("--workers", "1", "--reload")).wait_ready()
    project(views=BROKEN)
    server.wait_for_log(f"reload failed: {RAISED}")
    assert server.get("/").body == b"first /media/"


def test_start_with_a_broken_view_fails(start, site, project):
    project(views=BROKEN)
    server = start("site_wsgi", site)
    server.wait_for_log(f"did not boot: {RAISED}")
    assert server.process.wait(30) == 78


def test_check_with_a_broken_view_fails(python, site, project):
    project(views=BROKEN)
    status, text = run_check(python, site, "site_wsgi")
    assert (status, RAISED in text, 'views.py", line 1' in text) == (78, True, True), text


def test_unreachable_database_fails_a_reload_but_not_a_start(start, site, project):
    project(views="raise OSError('database down')")
    server = start("site_wsgi", site).wait_ready()
    server.wait_for_log("database down; continuing, because Django imports it again at the next request")
    assert server.get("/").status == 500
    server.reload()
    server.wait_for_log("reload failed: importing urls (ROOT_URLCONF) raised OSError")
    project(views=VIEWS)
    assert server.get("/").body == b"first /media/"


def test_urlconf_chosen_by_a_middleware_is_served(start, site, project):
    project(
        settings=SETTINGS.replace("[]", "['middleware.choose']"),
        middleware="""
            def choose(get_response):
                def serve(request):
                    request.urlconf = "other_urls"
                    return get_response(request)
                return serve
        """,
        other_urls=URLS,
        urls=BROKEN,
    )
    server = start("site_wsgi", site).wait_ready()
    server.wait_for_log("continuing, because middleware.choose may choose another URLconf")
    assert server.get("/").body == b"first /media/"


def test_urlconf_is_imported_with_the_path_prefix(start, site):
    server = start("site_wsgi", site, ("--root-path", "/shop")).wait_ready()
    assert server.get("/shop/").body == b"first /shop/media/"


@pytest.mark.parametrize(
    "source",
    [
        "class Wrapper:\n    def __init__(self): self.inner = django\n"
        "    def __call__(self, environ, start_response): return self.inner(environ, start_response)\n"
        "application = Wrapper()",
        "def application(environ, start_response): return django(environ, start_response)",
        "import functools\ndef call(inner, environ, start_response): return inner(environ, start_response)\n"
        "application = functools.partial(call, django)",
        "def wrap(inner):\n    def application(environ, start_response):\n"
        "        return inner(environ, start_response)\n    return application\n"
        "application = wrap(django)",
    ],
)
def test_wrapped_django_is_recognized(python, site, project, source):
    project(wrapped=wrapper(source), views=BROKEN)
    status, text = run_check(python, site, "wrapped")
    assert (status, RAISED in text) == (78, True), text


def test_other_application_that_uses_django_is_served(start, site, project):
    project(
        other="""
            import site_wsgi
            class Api:
                def __call__(self, environ, start_response):
                    start_response("200 OK", [])
                    return [b"api"]
            application = Api()
        """,
        views=BROKEN,
    )
    server = start("other", site).wait_ready()
    assert server.get("/").body == b"api"
    assert RAISED not in server.log()


def test_application_without_django_does_not_import_it(start, project):
    site = project(
        plain="""
            import sys
            def application(environ, start_response):
                start_response("200 OK", [])
                return [str("django" in sys.modules).encode()]
        """
    )
    assert start("plain", site).wait_ready().get("/").body == b"False"
