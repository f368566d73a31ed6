"""The TOML parser of Python 3.11 and newer, or the package it was made of."""

try:
    import tomllib
except ImportError:
    import tomli as tomllib

__all__ = ["tomllib"]
