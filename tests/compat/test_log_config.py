"""app.log_config, and the settings of gunicorn.conf.py that configure logging."""

import pytest

LOGGING_APPLICATION = """
    import logging

    def application(environ, start_response):
        logging.getLogger("shop").debug("sold %s", environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"sold"]
"""

LOGGING_INI = """
    [loggers]
    keys = root, shop, access
    [handlers]
    keys = console
    [formatters]
    keys = short
    [logger_root]
    handlers = console
    [logger_shop]
    level = DEBUG
    handlers = console
    qualname = shop
    propagate = 0
    [logger_access]
    handlers = console
    qualname = gunicorn.access
    [handler_console]
    class = StreamHandler
    formatter = short
    [formatter_short]
    format = <<%(name)s %(levelname)s %(message)s>>
"""

LOGGING_JSON = """
    {
        "version": 1,
        "formatters": {"short": {"format": "<<%(name)s %(levelname)s %(message)s>>"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "short"}},
        "loggers": {"shop": {"level": "DEBUG", "handlers": ["out"]}}
    }
"""


def test_logconfig_dict_configures_logging_of_the_application(place):
    place.write("site_wsgi.py", LOGGING_APPLICATION)
    place.write(
        "gunicorn.conf.py",
        """
        logconfig_dict = {
            "version": 1,
            "formatters": {"generic": {"format": "<<%(name)s %(levelname)s %(message)s>>"}},
            "loggers": {"shop": {"level": "DEBUG", "handlers": ["console"], "propagate": False}},
        }
        """,
    )
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/tea").body == b"sold"
    daemon.wait_for_log("<<shop DEBUG sold /tea>>")


def test_wrong_logconfig_dict_fails_the_boot(place):
    place.write(
        "gunicorn.conf.py", "logconfig_dict = {'version': 1, 'handlers': {'x': {'class': 'no.Such'}}}\n"
    )
    status, output = place.run("site_wsgi", "--python", place.python)
    assert status != 0
    assert "ValueError" in output


@pytest.mark.parametrize(
    ("name", "text", "preload"),
    [
        ("logging.ini", LOGGING_INI, []),
        ("logging.json", LOGGING_JSON, []),
        ("any.conf", LOGGING_JSON, ["--preload"]),
    ],
)
def test_log_config_configures_logging_of_the_application(place, name, text, preload):
    place.write("site_wsgi.py", LOGGING_APPLICATION)
    place.write(name, text)
    daemon = place.start("--log-config", place.directory / name, *preload).wait_ready()
    assert daemon.get("/tea").body == b"sold"
    daemon.wait_for_log("<<shop DEBUG sold /tea>>")
    is_warned = name == "logging.ini"
    assert ("configures gunicorn.access; the daemon writes" in daemon.log()) == is_warned


def test_logconfig_json_of_gunicorn_conf_is_the_same_setting(place):
    place.write("site_wsgi.py", LOGGING_APPLICATION)
    place.write("logging.json", LOGGING_JSON)
    place.write("gunicorn.conf.py", f"logconfig_json = {str(place.directory / 'logging.json')!r}\n")
    daemon = place.start("-c", place.directory / "gunicorn.conf.py").wait_ready()
    assert daemon.get("/tea").body == b"sold"
    daemon.wait_for_log("<<shop DEBUG sold /tea>>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"handlers": {"out": {"class": "nowhere.Handler"}}}', "No module named 'nowhere'; install it"),
        ('{"version": 7}', "ValueError: Unsupported version: 7"),
        ("{", "JSONDecodeError"),
    ],
)
def test_wrong_log_config_fails_the_boot(place, text, expected):
    place.write("logging.json", text)
    status, output = place.run("site_wsgi", "--python", place.python, "--log-config", "logging.json")
    assert status == 78, output
    assert "app.log_config: " in output
    assert expected in output, output
