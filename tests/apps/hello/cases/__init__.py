"""WSGI applications for protocol tests: one small case per path, served by `cases:application`.

Each case does one thing that PEP 3333 allows or forbids, or that happens in real applications. Its docstring
says what a server must do. `/` lists all cases. Tests that talk to a server are in tests/compat; this
package only provides the behaviour, deterministic and without dependencies.

A case is found by the longest prefix of the path that is a name, so `/status/204` is a case and
`/environ/a%20b` is the case `environ` with PATH_INFO `/environ/a b`. Parameters come in the query string.
Cases marked `conforming=False` violate the specification on purpose; all others pass wsgiref.validate.

What happens inside (close() called, a generator finished, an exception raised) is recorded as an event:
`/events` returns them, or those of `?id=`. With several workers, set CASES_EVENTS to a file: every event is
also appended there as a line of JSON with the pid.
"""

# Imported for the cases that they register.
from . import body, environ, failures, files, heads, load, response, start_response  # noqa: F401
from .registry import CASES, application

__all__ = ["CASES", "application"]
