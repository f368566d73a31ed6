"""Registers the catalog with Django."""

from django.apps import AppConfig


class CatalogConfig(AppConfig):
    """Found by Django 3.2 and later, as the only AppConfig of this module."""

    name = "catalog"
    default_auto_field = "django.db.models.BigAutoField"
