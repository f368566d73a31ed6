"""Exceptions, exits and crashes."""

import ctypes
import os
import signal
import sys
import time

from .registry import (
    TEXT,
    CaseError,
    Closing,
    answer,
    case,
    query,
)


@case("raise")
def raise_error(environ, start_response):
    """Raises before start_response: 500, one traceback in the log."""
    raise CaseError("raise")


@case("raise/after-start")
def raise_after_start(environ, start_response):
    """Raises after start_response() and before any byte: still 500."""
    start_response("200 OK", [TEXT])
    raise CaseError("raise/after-start")


@case("raise/first")
def raise_first(environ, start_response):
    """Raises at the first iteration: 500; close() is called."""
    start_response("200 OK", [TEXT])

    def chunks():
        raise CaseError("raise/first")
        yield b""

    return Closing(environ, chunks())


@case("raise/middle")
def raise_middle(environ, start_response):
    """Raises after a chunk was sent: the connection is reset; close() is called."""
    start_response("200 OK", [TEXT])

    def chunks():
        yield b"one\n"
        raise CaseError("raise/middle")

    return Closing(environ, chunks())


@case("raise/close")
def raise_close(environ, start_response):
    """close() raises after a complete body: the client has its response, the log the traceback."""

    class Failing(Closing):
        def close(self):
            super().close()
            raise CaseError("raise/close")

    return Failing(environ, answer(start_response, b"complete\n"))


@case("raise/system-exit")
def raise_system_exit(environ, start_response):
    """Calls sys.exit() in a view: 500; the worker keeps serving or is replaced."""
    sys.exit(3)


@case("raise/keyboard-interrupt")
def raise_keyboard_interrupt(environ, start_response):
    """Raises KeyboardInterrupt in a view, with the outcome of sys.exit()."""
    raise KeyboardInterrupt


@case("raise/unprintable")
def raise_unprintable(environ, start_response):
    """An exception whose __str__ raises: 500, and logging it does not fail."""

    class Unprintable(Exception):
        def __str__(self):
            raise CaseError("no text")

    raise Unprintable


@case("exit")
def exit_now(environ, start_response):
    """os._exit(`?code=`): 502, and the next request is served by another worker."""
    os._exit(query(environ, "code", 7))


@case("exit/middle")
def exit_middle(environ, start_response):
    """os._exit() after a chunk was sent: reset."""
    start_response("200 OK", [TEXT])

    def chunks():
        yield b"one\n"
        time.sleep(query(environ, "delay", 0.2))
        os._exit(7)

    return chunks()


@case("segfault")
def segfault(environ, start_response):
    """Reads address zero: the kernel kills the worker with SIGSEGV."""
    ctypes.string_at(0)
    raise CaseError("still alive after reading address zero")


@case("kill")
def kill(environ, start_response):
    """Sends `?signal=` (default KILL) to its own process, then sleeps `?wait=` seconds."""
    os.kill(os.getpid(), signal.Signals["SIG" + query(environ, "signal", "KILL")])
    time.sleep(query(environ, "wait", 1.0))
    return answer(start_response, b"survived\n")
