"""Cases that only tests/compat needs, one per path; the others are in tests/apps/hello/cases."""

# Imported for the cases that they register.
from . import bodies, faults, files, heads, process  # noqa: F401
from .registry import application

__all__ = ["application"]
