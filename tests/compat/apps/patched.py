"""An application patched by gevent or eventlet (the variable LIBRARY) before its other imports."""

import os
import warnings

warnings.simplefilter("ignore")
if os.environ["LIBRARY"] == "gevent":
    from gevent import monkey

    monkey.patch_all(thread=os.environ.get("THREAD", "1") == "1")
else:
    import eventlet

    eventlet.monkey_patch(thread=os.environ.get("THREAD", "1") == "1")

import asyncio  # noqa: E402
import json  # noqa: E402
import queue  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402


def work():
    """Blocks in common ways: sleep, thread, queue, subprocess, socket, executor."""
    time.sleep(0.01)
    channel = queue.Queue()
    thread = threading.Thread(target=lambda: (time.sleep(0.01), channel.put("thread")))
    thread.start()
    result = [channel.get(timeout=10)]
    thread.join()
    result.append(subprocess.run(["echo", "program"], capture_output=True, text=True, check=True).stdout)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"socket")
        result.append(theirs.recv(6).decode())
    with ThreadPoolExecutor(1) as executor:
        result.append(executor.submit(lambda: "executor").result(10))
    return result


def wsgi(environ, start_response):
    """Responds with the results of work()."""
    body = json.dumps(work()).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope, receive, send):
    """Responds with the results of work() in the loop's executor."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    result = await asyncio.get_running_loop().run_in_executor(None, work)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(result).encode()})
