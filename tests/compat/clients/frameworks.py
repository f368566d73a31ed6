"""The frameworks in apps/, each with the target to serve. All have the same routes."""

FRAMEWORKS = {
    "starlette": "with_starlette:app",
    "fastapi": "with_fastapi:app",
    "quart": "with_quart:app",
    "litestar": "with_litestar:app",
    "blacksheep": "with_blacksheep:app",
    "django": "with_django.asgi",
}
