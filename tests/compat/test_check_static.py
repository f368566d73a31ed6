"""`rgun check` with a real Django project: it warns if nothing serves `STATIC_URL`."""

import pytest
from places import user_flags

PROJECT = """
import os

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

HERE = os.path.dirname(os.path.abspath(__file__))
settings.configure(
    DEBUG={debug},
    SECRET_KEY="x",
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles"],
    STATIC_URL="{url}",
    STATIC_ROOT=os.path.join(HERE, "collected"),
)
application = get_wsgi_application()
urlpatterns = []
"""

# Django's own ways to serve static files, as a project may use them in development.
HANDLER = """
from django.contrib.staticfiles.handlers import StaticFilesHandler

application = StaticFilesHandler(application)
"""
VIEW = """
from django.contrib.staticfiles.urls import staticfiles_urlpatterns

urlpatterns += staticfiles_urlpatterns()
"""

WARNING = "neither rgun nor the application serves Django's STATIC_URL"


@pytest.fixture
def check(place):
    """A function that checks a project with this URL and this addition, and returns the output."""

    def check(url="/static/", addition="", configuration=""):
        project = PROJECT.format(url=url, debug=addition == VIEW)
        (place.directory / "mysite.py").write_text(project + addition)
        place.write("rgun.toml", configuration)
        status, output = place.run(
            "check", *user_flags(), "mysite", "--python", place.python, "--config", "rgun.toml"
        )
        assert status == 0, output
        return output

    return check


def test_unserved_static_url_causes_a_warning_with_a_remedy(check, place):
    output = check()
    assert output.count(WARNING) == 1, output
    assert "fill the directory with `manage.py collectstatic`" in output, output
    # With the lines that the warning prints as its configuration, the check gives no warning.
    (place.directory / "collected").mkdir()
    lines = output[output.index("[[static]]") :].splitlines()[:3]
    assert [line.split(" = ")[0].strip() for line in lines] == ["[[static]]", "url", "directory"], output
    assert WARNING not in check(configuration="\n".join(line.strip() for line in lines))


@pytest.mark.parametrize("addition", [HANDLER, VIEW], ids=["StaticFilesHandler", "staticfiles_urlpatterns"])
def test_static_url_served_by_django_causes_no_warning(check, addition):
    assert WARNING not in check(addition=addition)


def test_static_url_of_another_host_causes_no_warning(check):
    assert WARNING not in check(url="https://static.example/")
