"""Applications whose worker, or a process that it forks, is killed right after it has printed."""

import os
import signal
import sys


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def say(path, text):
    if path == "/print":
        print("printed", text)
        kill()
    if path == "/write":
        sys.stdout.write(f"written {text}\n")
        kill()
    if path == "/begin":
        print("partial", text, end="")
        print("\nwhole", text, "\nrest", end=" ")
        kill()
    child = os.fork()
    if child == 0:
        print("forked", text)
        kill()
    os.waitpid(child, 0)


def wsgi(environ, start_response):
    say(environ["PATH_INFO"], environ["QUERY_STRING"])
    start_response("200 OK", [])
    return []


async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError
    say(scope["path"], scope["query_string"].decode())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
