"""The code that all Python tests share: a daemon in the foreground, clients, waiting, and the fake daemon.

Runs on Python 3.9 with nothing but the standard library, because tests/e2e copies it to its machines; only
`fixtures` imports pytest.
"""
