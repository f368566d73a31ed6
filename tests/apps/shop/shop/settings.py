"""Settings of the shop, for Django 3.2 to 6.x, with nothing but Django installed.

Settings that differ between machines come from the environment and have working defaults:

SHOP_DATA     directory of the database, uploads and generated files (default: `data` beside manage.py)
SHOP_SECRET   Django's SECRET_KEY (default: the file `secret` in SHOP_DATA, which `prepare` writes)
SHOP_HOSTS    names that the shop answers to, separated by spaces or commas (default: loopback names)
SHOP_ORIGINS  CSRF_TRUSTED_ORIGINS, for a TLS proxy in front, separated likewise (default: none)
SHOP_SSL_REDIRECT  1 redirects requests without TLS to https (default: off)
SHOP_DEBUG    1 turns on Django's debug pages (default: off, as in production)

wsgi.py, asgi.py and manage.py use this module. It contains no settings of the server.
"""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("SHOP_DATA") or BASE_DIR / "data").resolve()


def words(name, default=""):
    """Returns the environment variable `name` as a list: separated by spaces or commas."""
    return os.environ.get(name, default).replace(",", " ").split()


def secret_key():
    """Returns SHOP_SECRET, or the key that `prepare` stored in the data directory."""
    if os.environ.get("SHOP_SECRET"):
        return os.environ["SHOP_SECRET"]
    path = DATA_DIR / "secret"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise ImproperlyConfigured(
            f"no SHOP_SECRET in the environment and no {path}: "
            "run tests/apps/shop/prepare, or set SHOP_DATA to the directory it prepared"
        ) from None


SECRET_KEY = secret_key()
DEBUG = os.environ.get("SHOP_DEBUG") == "1"
ALLOWED_HOSTS = words("SHOP_HOSTS", "localhost 127.0.0.1 [::1]")
CSRF_TRUSTED_ORIGINS = words("SHOP_ORIGINS")

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "catalog",
]

# The list of `django-admin startproject`. A shorter one would make every server look faster.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "shop.urls"
WSGI_APPLICATION = "shop.wsgi.application"
ASGI_APPLICATION = "shop.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "shop.sqlite3",
        # As on a deployed site: opening SQLite for each request would cost as much as the query of
        # /api/products.
        "CONN_MAX_AGE": 60,
        "OPTIONS": {"timeout": 20},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_PASSWORD_VALIDATORS = []

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

STATIC_URL = "/static/"
MEDIA_ROOT = DATA_DIR / "uploads"
# The same directory as MEDIA_ROOT, so that Django stores a large upload by renaming its file.
FILE_UPLOAD_TEMP_DIR = DATA_DIR / "uploads"
SECURE_SSL_REDIRECT = os.environ.get("SHOP_SSL_REDIRECT") == "1"
X_FRAME_OPTIONS = "DENY"

# Without DEBUG, Django by default mails the traceback of a failed view and prints nothing. Here the
# traceback goes to stderr, which rgun logs.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "catalog": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
    },
}
