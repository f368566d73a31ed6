"""Finds the rgun that was installed with this package; `python -m rgun` runs it.

An application imports nothing from here.
"""
