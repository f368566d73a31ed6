"""The TOML parser: that of Python 3.11 and newer, or the package tomli, from which it comes."""

try:
    import tomllib
except ImportError:
    import tomli as tomllib

__all__ = ["tomllib"]
