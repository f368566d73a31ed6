"""The frameworks in apps/: each has the same routes, and the target that serves it."""

FRAMEWORKS = {
    "starlette": "with_starlette:app",
    "fastapi": "with_fastapi:app",
    "quart": "with_quart:app",
    "litestar": "with_litestar:app",
    "blacksheep": "with_blacksheep:app",
    "django": "with_django.asgi",
}
