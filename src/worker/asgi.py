"""The Python half of ASGI: the event loop, lifespan, and the coroutine around each call of the application.

Embedded into the extension and loaded only for ASGI applications (src/worker/asgi). uvicorn's lifespan is the
reference. Runs on CPython 3.9 and later.
"""

import asyncio
import sys
import traceback

# Given by the extension. `ended` tells an exchange what the application has returned or raised (with
# `exchange._returned` for None, which is quicker);
# `leave` has the worker exit with a SystemExit, when what runs is finished.
complete = request_exit = None


async def call(application, scope, receive, send, exchange):
    """The task of an exchange. Whatever the application raises ends the exchange, and nothing else."""
    try:
        result = await application(scope, receive, send)
    except BaseException as error:  # noqa: BLE001 (also CancelledError and SystemExit: they are the request's)
        complete(exchange, None, error)
        if is_signal_handlers(error):
            request_exit(error)
    else:
        if result is None:
            exchange._complete()
        else:
            complete(exchange, result, None)


async def call_websocket(application, scope, receive, send, exchange):
    """The same for a WebSocket. It may idle for days: what the application does not hold is not held here."""
    try:
        awaitable = application(scope, receive, send)
        del application, scope, receive, send
        result = await awaitable
    except BaseException as error:  # noqa: BLE001 (as above)
        complete(exchange, None, error)
        if is_signal_handlers(error):
            request_exit(error)
    else:
        if result is None:
            exchange._complete()
        else:
            complete(exchange, result, None)


def is_signal_handlers(error):
    """Is it the SystemExit of a signal handler, which wants the process to end, whoever it interrupted?

    Python calls a handler with the signal's number and the frame that it interrupts, through which it then raises.
    (Not always directly: uvloop's frames, which are not Python's, may be between the two.)
    """
    if not isinstance(error, SystemExit):
        return False
    outer, entry = [], error.__traceback__
    while entry is not None:
        given = arguments(entry.tb_frame)
        for number, interrupted in zip(given, given[1:]):
            # By its type: a proxy's __class__ is its application's code.
            if issubclass(type(number), int) and any(interrupted is frame for frame in outer):
                return True
        outer.append(entry.tb_frame)
        entry = entry.tb_next
    return False


def arguments(frame):
    """What a frame's function was given by position."""
    code, values = frame.f_code, frame.f_locals
    given = [values[name] for name in code.co_varnames[: code.co_argcount] if name in values]
    if code.co_flags & 0x04:  # CO_VARARGS
        given += values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
    return given


def single(application, is_double):
    """An ASGI 3 application of any."""
    if not is_double:
        return application

    async def instance_of(scope, receive, send):
        instance = application(scope)
        return await instance(receive, send)

    return instance_of


class Server:
    """The loop of one worker, and the application's lifespan on it."""

    def __init__(self, load, application, lifespan, event_loop):
        self.load = load
        is_double = load.is_double_callable(application)
        self.application = single(application, is_double)
        self.asgi = {"version": "2.0" if is_double else "3.0", "spec_version": "2.3"}
        self.event_loop = event_loop
        # The extension serves until this is done (a Future).
        self.stopped = self.loop = None
        self.state = {}
        self.warnings = []
        self.lifespan = None if lifespan == "off" else Lifespan(self, lifespan == "on")

    def open(self):
        """Makes the loop; None, or why there is none."""
        new_event_loop = asyncio.new_event_loop
        # uvloop waits outside of what such a library has patched: nothing else of its would run.
        library = self.load.patched()
        if library is not None and self.event_loop == "uvloop":
            return self.load.Failure(
                self.load.CONFIG,
                f"app.loop: uvloop does not run an application whose standard library is patched by {library} "
                "(monkey patching); set app.loop to auto or asyncio, or take the patching out of the application",
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
        """None, or why the application cannot be served."""
        return self.lifespan and self.loop.run_until_complete(self.lifespan.startup())

    def new_task(self):
        """How tasks are made: a callable, its keywords, and whether they run at once."""
        if self.loop.get_task_factory() is not None:
            return self.loop.create_task, {}, False
        keywords = {"loop": self.loop, "name": "rgun"}
        if sys.version_info >= (3, 12):
            return asyncio.Task, {**keywords, "eager_start": True}, True
        return asyncio.Task, keywords, False

    def run(self):
        """Runs the loop until the extension is done. It may raise, and is to be called again then."""
        self.loop.run_until_complete(self.stopped)

    def close(self):
        """Ends the application's lifespan, then all that is left on the loop; the warnings."""
        loop = self.loop
        for end in (
            lambda: self.lifespan and loop.run_until_complete(self.lifespan.shutdown()),
            self.cancel_tasks,
            lambda: loop.run_until_complete(loop.shutdown_asyncgens()),
            lambda: loop.run_until_complete(loop.shutdown_default_executor()),
        ):
            try:
                end()
            except SystemExit as error:
                # A signal handler's. It ends the wait, and what comes after that is quick, mostly.
                request_exit(error)
            except BaseException as error:  # noqa: BLE001 (the process is about to exit)
                self.warn("ending the event loop", error)
        asyncio.set_event_loop(None)
        loop.close()
        return self.take_warnings()

    def cancel_tasks(self):
        """As asyncio.run() does."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for task in tasks:
            if not task.cancelled() and task.exception() is not None:
                self.warn("a task that was cancelled at the end", task.exception())

    def warn(self, doing, error):
        """Keeps an exception for the log."""
        summary, trace = self.load.describe(error)
        self.warnings.append(f"{doing} raised {summary}\n{trace}")

    def take_warnings(self):
        """What has come together."""
        warnings, self.warnings = self.warnings, []
        return warnings


class Lifespan:
    """The lifespan protocol, one task from startup to shutdown."""

    def __init__(self, server, is_required):
        self.server = server
        # `on`: an application that does not know lifespan cannot boot.
        self.is_required = is_required
        self.was_received = False
        self.failed_startup = None
        self.failed_shutdown = None
        self.error = None
        self.task = None

    async def startup(self):
        """None, or why the application cannot be served."""
        self.started, self.stopped = asyncio.Event(), asyncio.Event()
        self.events = asyncio.Queue()
        self.events.put_nowait({"type": "lifespan.startup"})
        self.task = asyncio.get_running_loop().create_task(self.main())
        await self.started.wait()
        if self.failed_startup is not None:
            return self.told(self.failed_startup)
        if self.error is None or is_signal_handlers(self.error):
            return None
        load = self.server.load
        if self.is_required:
            summary, trace = load.describe(self.error)
            raised = "the application's lifespan raised"
            return load.APP, f"{raised} {summary}", trace, f"{raised} {load.headline(self.error)}"
        if self.was_received:
            # Not merely unknown to it.
            self.server.warn(
                "the application's lifespan (app.lifespan is auto: going on without it)", self.error
            )
        return None

    def told(self, message):
        """A failure in the application's own words. Starlette's are a traceback."""
        lines = message.strip().splitlines()
        summary = lines[-1] if len(lines) > 1 and lines[0].startswith("Traceback") else "".join(lines[:1])
        trace = message if len(lines) > 1 else ""
        if not trace and self.error is not None:
            trace = self.server.load.describe(self.error)[1]
        failed = "the application's startup failed"
        text = failed + (f": {summary}" if summary else "")
        unicode = self.server.load.unicode
        return self.server.load.APP, unicode(text), unicode(trace), failed

    async def shutdown(self):
        """Awaits it."""
        if self.task is None or self.error is not None or not self.started.is_set():
            return
        self.events.put_nowait({"type": "lifespan.shutdown"})
        await self.stopped.wait()
        if self.failed_shutdown is not None:
            self.server.warnings.append(f"the application's shutdown failed: {self.failed_shutdown}")
        elif self.error is not None:
            self.server.warn("the application's shutdown", self.error)

    async def main(self):
        """The task."""
        scope = {
            "type": "lifespan",
            "asgi": {"version": self.server.asgi["version"], "spec_version": "2.0"},
            "state": self.server.state,
        }
        try:
            await self.server.application(scope, self.receive, self.send)
        except BaseException as error:  # noqa: BLE001 (as uvicorn: whatever it is, lifespan is over)
            self.error = error
            if is_signal_handlers(error):
                request_exit(error)
        finally:
            self.started.set()
            self.stopped.set()

    async def receive(self):
        self.was_received = True
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


# Tasks whose stacks are shown together.
MOST_TASKS = 16


def stack_of(task, loop):
    """Where a task is, the frame that waits last; then where the tasks are for which it waits, and theirs.

    None: it is being made.
    """
    if task is None:
        return running_stack()
    tasks, texts = [task], []
    for each in tasks:  # it grows
        if len(texts) == MOST_TASKS:
            texts.append("and for more tasks\n")
            break
        text, awaited = waiting_stack(each, loop)
        texts.append(f"for its task {each.get_name()}, which was at:\n{text}" if texts else text)
        for task in awaited:
            if not task.done() and not any(task is known for known in tasks):
                tasks.append(task)
    return "".join(texts)


def running_stack():
    """The frames of the loop's thread, below ours."""
    import threading

    frame = sys._current_frames().get(threading.main_thread().ident)
    stack = traceback.extract_stack(frame)
    inside = [at for at, entry in enumerate(stack) if is_ours(entry.filename)]
    stack = traceback.StackSummary.from_list(stack[inside[-1] + 1 if inside else 0 :])
    return "".join(stack.format())


def waiting_stack(task, loop):
    """The frames of its coroutines as text, and the tasks that it waits for."""
    if asyncio.current_task(loop) is task:
        return running_stack(), []
    if task.done():
        # CPython 3.12.1 crashes if such a one, that was eager, is asked for its coroutine.
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
            if not is_ours(frame.f_code.co_filename):
                lines.append((frame, frame.f_lineno))
        awaited = getattr(awaited, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    text = "".join(traceback.StackSummary.extract(iter(lines)).format())
    if awaited is not None:
        text += f"  waiting for {type(awaited).__module__}.{type(awaited).__qualname__}\n"
    return text or "  not begun\n", awaited_tasks(task, frames)


def awaited_tasks(task, frames):
    """The tasks for which one waits: in the Future that it waits for, and in the frames of who made that.

    Nothing of asyncio's that is public tells before 3.14, so this knows asyncio (gather, wait, wait_for, shield,
    TaskGroup) and anyio; with others, fewer tasks are found.
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
        # A copy: on another thread than the loop's, it may change.
        members = list(place) if type(place) in (list, tuple, set) else [place]
        found += [member for member in members if isinstance(member, asyncio.Task)]
    return found


def is_ours(filename):
    """Is it this file?"""
    return filename.startswith("<rgun>")
