"""Registers the catalog with Django."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """Named so that Django finds it by itself since 3.2."""

    name = "catalog"
    default_auto_field = "django.db.models.BigAutoField"
