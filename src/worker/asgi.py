"""The Python part of ASGI: event loop, lifespan, the coroutine that calls the application, task stacks.

Embedded into the extension and loaded only for ASGI applications (src/worker/asgi). uvicorn's
lifespan is the reference. Runs on CPython 3.9 and later.
"""

import asyncio
import sys
import traceback

# Set by the extension (run.rs). `complete` ends an exchange with the result or exception of the
# application; `exchange._complete` is a faster `complete` for the result None. `request_exit` stops
# the worker: it finishes the running requests and exits with a SystemExit.
complete = request_exit = None


async def call(application, scope, receive, send, exchange):
    """The task of an exchange. An exception of the application ends only the exchange."""
    try:
        result = await application(scope, receive, send)
    except BaseException as error:  # noqa: BLE001 (CancelledError and SystemExit, too, end only the request)
        complete(exchange, None, error)
        if is_from_signal_handler(error):
            request_exit(error)
    else:
        if result is None:
            exchange._complete()
        else:
            complete(exchange, result, None)


async def call_websocket(application, scope, receive, send, exchange):
    """The task of a WebSocket, which may be idle for days: the task keeps no reference to the arguments."""
    try:
        awaitable = application(scope, receive, send)
        del application, scope, receive, send
        result = await awaitable
    except BaseException as error:  # noqa: BLE001 (as in `call`)
        complete(exchange, None, error)
        if is_from_signal_handler(error):
            request_exit(error)
    else:
        if result is None:
            exchange._complete()
        else:
            complete(exchange, result, None)


def is_from_signal_handler(error):
    """Returns whether the error is a signal handler's SystemExit, which ends the process, not only a request.

    Python calls a handler with the signal's number and the interrupted frame. The exception then
    propagates through that frame, so both are in the traceback (perhaps with frames of uvloop in
    between).
    """
    if not isinstance(error, SystemExit):
        return False
    outer, entry = [], error.__traceback__
    while entry is not None:
        values = positional_arguments(entry.tb_frame)
        for number, interrupted in zip(values, values[1:]):
            # By type(), because the __class__ of a proxy object runs code of the application.
            if issubclass(type(number), int) and any(interrupted is frame for frame in outer):
                return True
        outer.append(entry.tb_frame)
        entry = entry.tb_next
    return False


def positional_arguments(frame):
    """Returns the positional arguments of a frame's function."""
    code, values = frame.f_code, frame.f_locals
    positional = [values[name] for name in code.co_varnames[: code.co_argcount] if name in values]
    if code.co_flags & 0x04:  # CO_VARARGS
        positional += values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return positional


def as_asgi3(application, is_asgi2):
    """Returns the ASGI 3 form of an application."""
    if not is_asgi2:
        return application

    async def call_asgi2(scope, receive, send):
        instance = application(scope)
        return await instance(receive, send)

    return call_asgi2


class Server:
    """The event loop of one worker, with the application's lifespan."""

    def __init__(self, load, application, lifespan, event_loop):
        self.load = load
        is_asgi2 = load.is_double_callable(application)
        self.application = as_asgi3(application, is_asgi2)
        self.asgi = {"version": "2.0" if is_asgi2 else "3.0", "spec_version": "2.3"}
        self.event_loop = event_loop
        # `stopped` is a Future: `run` returns when the extension completes it.
        self.stopped = self.loop = None
        self.state = {}
        self.warnings = []
        self.lifespan = None if lifespan == "off" else Lifespan(self, lifespan == "on")

    def open(self):
        """Creates the loop. Returns None, or the failure."""
        new_event_loop = asyncio.new_event_loop
        # gevent and eventlet cannot patch libuv, in which uvloop waits: their green threads would
        # never run.
        library = self.load.patching_library()
        if library is not None and self.event_loop == "uvloop":
            return self.load.Failure(
                self.load.CONFIG,
                "app.loop: uvloop does not run an application whose standard library is patched by "
                f"{library} (monkey patching); set app.loop to auto or asyncio, or remove the patching from "
                "the application",
            ).outcome
        if library is None and self.event_loop != "asyncio":
            try:
                import uvloop

                new_event_loop = uvloop.new_event_loop
            except ImportError as error:
                if self.event_loop == "uvloop":
                    remedy = "install it there, or set app.loop to auto or asyncio"
                    missing = f"app.loop: uvloop cannot be imported by {sys.executable}"
                    return self.load.Failure(
                        self.load.CONFIG, f"{missing} ({error}); {remedy}", "", f"{missing}; {remedy}"
                    ).outcome
        self.loop = new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.stopped = self.loop.create_future()
        return None

    def startup(self):
        """Runs lifespan's startup. Returns None, or the failure."""
        return self.lifespan and self.run_lifespan(self.lifespan.startup())

    def run_lifespan(self, phase):
        """Runs lifespan's startup or shutdown, a coroutine. Returns its result."""
        global current_lifespan
        current_lifespan = self.lifespan
        try:
            return self.loop.run_until_complete(phase)
        finally:
            current_lifespan = None

    def has_asyncio_flags(self):
        """Returns whether get_debug() and is_running() are asyncio's, and only read an attribute."""
        for name, attribute in (("get_debug", "_debug"), ("is_running", "_thread_id")):
            method = getattr(asyncio.BaseEventLoop, name)
            code = getattr(method, "__code__", None)
            if getattr(type(self.loop), name, None) is not method or code is None:
                return False
            is_plain = attribute in vars(self.loop) and not hasattr(type(self.loop), attribute)
            if name in vars(self.loop) or not is_plain or code.co_names != (attribute,):
                return False
        return True

    def task_constructor(self):
        """Returns the callable that creates a task, and its keyword arguments.

        Also whether tasks are eager, and whether they accept the argument `context`.
        """
        if self.loop.get_task_factory() is not None:
            return self.loop.create_task, {}, False, False
        keywords = {"loop": self.loop, "name": "rgun"}
        if sys.version_info >= (3, 12):
            return asyncio.Task, {**keywords, "eager_start": True}, True, True
        return asyncio.Task, keywords, False, sys.version_info >= (3, 11)

    def run(self):
        """Runs the loop until `stopped` is done. Call it again after the exception of a signal handler."""
        self.loop.run_until_complete(self.stopped)

    def close(self):
        """Runs lifespan's shutdown, then cancels the tasks left on the loop. Returns the warnings."""
        loop = self.loop
        for step in (
            lambda: self.lifespan and self.run_lifespan(self.lifespan.shutdown()),
            self.cancel_tasks,
            lambda: loop.run_until_complete(loop.shutdown_asyncgens()),
            lambda: loop.run_until_complete(loop.shutdown_default_executor()),
        ):
            try:
                step()
            except SystemExit as error:
                # A signal handler called sys.exit(): stop waiting for this step and go on with the
                # next.
                request_exit(error)
            except BaseException as error:  # noqa: BLE001 (the process is about to exit)
                self.warn("ending the event loop", error)
        asyncio.set_event_loop(None)
        loop.close()
        return self.take_warnings()

    def cancel_tasks(self):
        """Cancels and awaits all tasks, as asyncio.run() does."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self.warn("a task cancelled at shutdown", task.exception())

    def warn(self, doing, error):
        """Adds a warning about an exception."""
        summary, trace = self.load.describe(error)
        self.warnings.append(f"{doing} raised {summary}\n{trace}")

    def take_warnings(self):
        """Returns and clears the warnings."""
        warnings, self.warnings = self.warnings, []
        return warnings


class Lifespan:
    """The lifespan protocol, one task from startup to shutdown."""

    def __init__(self, server, is_required):
        self.server = server
        # `app.lifespan` is `on`: an application without lifespan fails to boot.
        self.is_required = is_required
        # The application has called `receive()`.
        self.has_received = False
        # The messages of `lifespan.startup.failed` and `lifespan.shutdown.failed`.
        self.failed_startup = None
        self.failed_shutdown = None
        self.error = None
        self.task = None

    async def startup(self):
        """Starts the task and awaits the application's startup. Returns None, or the failure."""
        self.started, self.stopped = asyncio.Event(), asyncio.Event()
        self.events = asyncio.Queue()
        self.events.put_nowait({"type": "lifespan.startup"})
        self.task = asyncio.get_running_loop().create_task(self.main())
        await self.started.wait()
        if self.failed_startup is not None:
            return self.startup_failure(self.failed_startup)
        if self.error is None or is_from_signal_handler(self.error):
            return None
        load = self.server.load
        if self.is_required:
            summary, trace = load.describe(self.error)
            raised = "the application's lifespan raised"
            return load.APP, f"{raised} {summary}", trace, f"{raised} {load.headline(self.error)}"
        if self.has_received:
            # The application has called receive(), so it supports lifespan and has failed.
            self.server.warn(
                "the application's lifespan (app.lifespan is auto: continuing without it)", self.error
            )
        return None

    def startup_failure(self, message):
        """Returns the failure for a `lifespan.startup.failed`. Starlette sends a traceback as its message."""
        lines = message.strip().splitlines()
        summary = lines[-1] if len(lines) > 1 and lines[0].startswith("Traceback") else "".join(lines[:1])
        trace = message if len(lines) > 1 else ""
        if not trace and self.error is not None:
            trace = self.server.load.describe(self.error)[1]
        failed = "the application's startup failed"
        text = failed + (f": {summary}" if summary else "")
        escape = self.server.load.escape_surrogates
        return self.server.load.APP, escape(text), escape(trace), failed

    async def shutdown(self):
        """Awaits the application's shutdown."""
        if self.task is None or self.error is not None or not self.started.is_set():
            return
        self.events.put_nowait({"type": "lifespan.shutdown"})
        await self.stopped.wait()
        if self.failed_shutdown is not None:
            self.server.warnings.append(f"the application's shutdown failed: {self.failed_shutdown}")
        elif self.error is not None:
            self.server.warn("the application's shutdown", self.error)

    async def main(self):
        """The task of lifespan: calls the application."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": self.server.asgi["version"], "spec_version": "2.0"},
            "state": self.server.state,
        }
        try:
            await self.server.application(scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 (as in uvicorn, any exception ends lifespan)
            self.error = error
            if is_from_signal_handler(error):
                request_exit(error)
        finally:
            self.started.set()
            self.stopped.set()

    async def receive(self):
        self.has_received = True
        return await self.events.get()

    async def send(self, message):
        kind = message["type"]
        phase, _, outcome = kind.rpartition(".")
        if phase not in ("lifespan.startup", "lifespan.shutdown") or outcome not in ("complete", "failed"):
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent by a lifespan.")
        is_startup = phase == "lifespan.startup"
        if self.stopped.is_set() or self.started.is_set() == is_startup:
            raise RuntimeError("Got invalid state transition on lifespan protocol.")
        if outcome == "failed":
            text = str(message.get("message") or "")
            if is_startup:
                self.failed_startup = text
            else:
                self.failed_shutdown = text
        (self.started if is_startup else self.stopped).set()


# The lifespan whose startup or shutdown runs, or None.
current_lifespan = None


def lifespan_stack():
    """Formats the stack of lifespan's task. Returns None unless its startup or shutdown runs.

    Called from another thread than the loop's.
    """
    lifespan = current_lifespan
    if lifespan is None or lifespan.task is None:
        return None
    return f"Lifespan's task (most recent call last):\n{stack_of(lifespan.task, lifespan.server.loop)}"


# Maximum number of tasks whose stacks are shown together.
MAX_TASKS = 16


def stack_of(task, loop):
    """Formats the stack of a task, innermost frame last, and the stacks of the tasks that it awaits.

    `task` is None while the loop's thread runs an eager task that is still being created.
    """
    if task is None:
        return running_stack()
    tasks, texts = [task], []
    for current in tasks:  # grows in the loop
        if len(texts) == MAX_TASKS:
            texts.append("it awaits more tasks\n")
            break
        text, awaited = waiting_stack(current, loop)
        texts.append(f"it awaits task {current.get_name()}, which was at:\n{text}" if texts else text)
        for task in awaited:
            if not task.done() and not any(task is known for known in tasks):
                tasks.append(task)
    return "".join(texts)


def running_stack():
    """Formats the stack of the loop's thread, without the frames of the worker."""
    import threading

    frame = sys._current_frames().get(threading.main_thread().ident)
    stack = traceback.extract_stack(frame)
    embedded = [index for index, entry in enumerate(stack) if is_embedded(entry.filename)]
    stack = traceback.StackSummary.from_list(stack[embedded[-1] + 1 if embedded else 0 :])
    return "".join(stack.format())


def waiting_stack(task, loop):
    """Returns the formatted stack of a task's coroutines, and the tasks that it awaits."""
    if asyncio.current_task(loop) is task:
        return running_stack(), []
    if task.done():
        # CPython 3.12.1 crashes in get_coro() of an eager task that is done.
        return "  ended\n", []
    frames, lines, awaited = [], [], task.get_coro()
    while True:
        # Coroutines, generators, asynchronous generators.
        kind = next((kind for kind in ("cr", "gi", "ag") if hasattr(awaited, f"{kind}_frame")), None)
        if kind is None:
            break
        frame = getattr(awaited, f"{kind}_frame")
        if frame is not None:
            frames.append(frame)
            if not is_embedded(frame.f_code.co_filename):
                lines.append((frame, frame.f_lineno))
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    text = "".join(traceback.StackSummary.extract(iter(lines)).format())
    if awaited is not None:
        text += f"  waiting for {type(awaited).__module__}.{type(awaited).__qualname__}\n"
    return text or "  not started\n", awaited_tasks(task, frames)


def awaited_tasks(task, frames):
    """Returns the tasks that a task awaits.

    They are found in its Future and in the asyncio and anyio frames that wait for this Future.

    Before 3.14 asyncio has no public API for this. The search knows asyncio internals (gather,
    wait, wait_for, shield, TaskGroup) and anyio; with other libraries it finds fewer tasks.
    """
    future = getattr(task, "_fut_waiter", None)
    places = [future, getattr(future, "_children", None)]
    for callback, *_ in getattr(future, "_callbacks", None) or ():
        places += [cell.cell_contents for cell in getattr(callback, "__closure__", None) or ()]
    for frame in frames:
        if frame.f_globals.get("__name__", "").partition(".")[0] in ("asyncio", "anyio"):
            for value in list(frame.f_locals.values()):
                places += [value, getattr(value, "_tasks", None)]
    found = []
    for place in places:
        # Copied: the loop's thread may change the list meanwhile.
        members = list(place) if type(place) in (list, tuple, set) else [place]
        found += [member for member in members if isinstance(member, asyncio.Task)]
    return found


def is_embedded(filename):
    """Returns whether a frame's file is embedded in the extension."""
    return filename.startswith("<rgun>")
