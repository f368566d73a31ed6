"""The Python part of log_records.rs: writes records of `logging` for the daemon, and tags printed lines.

The forms are in src/channel/log_record.rs. Embedded into the extension and run when the application imports
`logging` or prints a line in a request, unless `log.records` is false. Runs on CPython 3.9 and later.
"""

import contextlib
import sys

SEPARATOR = "\x1e"
# Maximum number of bytes of a message in one record, as for a line (src/daemon/journal/output.rs); a longer
# message becomes several records.
MAX_MESSAGE = 48 * 1024
# Maximum number of bytes of a character in UTF-8.
MAX_CHARACTER = 4
# Maximum number of fields from the argument `extra` of a call, and of characters of one.
MAX_EXTRA = 32
MAX_EXTRA_LENGTH = 2048
# The levels of `logging`, from the least severe, with the priorities that python-systemd's JournalHandler
# gives them. A level above all of these has priority 1.
PRIORITIES = ((10, 7), (20, 6), (30, 4), (40, 3), (50, 2))

# Set by `install`. `write_of(stream)` returns the function that writes to a stream of the daemon; None for
# another stream. `request_id()` returns the id of the current request, or None.
write_of = request_id = None


def install(find_write, current_request):
    """Sets the functions of the extension that this module calls."""
    global write_of, request_id
    write_of, request_id = find_write, current_request


def find_logging(name, path, target):
    """Finds the module `logging` as Python does, and has `emit` replaced after the import."""
    # Old finders have no find_spec; none of them finds the standard library.
    finders = [finder for finder in sys.meta_path if hasattr(finder, "find_spec")]
    found = (finder.find_spec(name, path, target) for finder in finders)
    spec = next((spec for spec in found if spec is not None), None)
    loader = spec and spec.loader

    def exec_module(module):
        del loader.exec_module
        loader.exec_module(module)
        replace_emit(module)

    # A loader without attributes of its own loads `logging` unchanged: its records stay lines.
    # Without a spec, the finders after this one find nothing either.
    with contextlib.suppress(AttributeError):
        loader.exec_module = exec_module
    return spec


def replace_emit(logging):
    """Replaces `StreamHandler.emit`. Subclasses that write text of their own stay as they are."""
    handler = logging.StreamHandler
    emit_text = handler.emit

    def emit(self, record):
        stream = getattr(self, "stream", None)
        write = write_of(stream) if self.terminator == "\n" else None
        if write is None:
            emit_text(self, record)
            return
        try:
            text = self.format(record)
            for line in lines_of(record, text, is_utf8(stream)):
                write(line)
            self.flush()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 (as in `logging`)
            self.handleError(record)

    emit.__doc__ = emit_text.__doc__
    emit.__module__, emit.__qualname__ = emit_text.__module__, emit_text.__qualname__
    handler.emit = emit


def is_utf8(stream):
    """Returns whether a stream writes UTF-8."""
    return stream.encoding.lower().replace("-", "") == "utf8"


def lines_of(record, text, is_utf8):
    """Returns the lines that stand for a record, whose formatted text is `text`; usually one."""
    from json import dumps

    if not text.isascii():
        # A lone surrogate has no form in JSON.
        text = text.encode("utf-8", "backslashreplace").decode()
    fields = {
        "rgun": "record",
        "priority": priority(record.levelno),
        "message": text,
        "logger": record.name,
        "file": record.pathname,
        "line": record.lineno,
        "function": record.funcName,
        "thread": record.threadName,
        "process": record.processName,
    }
    current = request_id()
    if current is not None:
        fields["request_id"] = current
    extra = extra_fields(record)
    if extra:
        fields["extra"] = extra
    length = MAX_MESSAGE if text.isascii() else MAX_MESSAGE // MAX_CHARACTER
    lines = []
    for at in range(0, max(len(text), 1), length):
        fields["message"] = text[at : at + length]
        line = dumps(fields, ensure_ascii=not is_utf8, separators=(",", ":"), default=str)
        # Surrogates in names of files.
        lines.append(f"{SEPARATOR}{line}\n".encode("utf-8", "replace").decode())
    return lines


def priority(level):
    """Returns the priority of a level, as in syslog(3)."""
    for bound, number in PRIORITIES:
        if level <= bound:
            return number
    return 1


def extra_fields(record):
    """Returns the fields that a call has set by `extra`, if their names are those of journal fields.

    The daemon ignores names that are invalid or its own.
    """
    found = {}
    for name, value in vars(record).items():
        if (
            name.isupper()
            and name.isascii()
            and isinstance(value, (str, int, float))
            and len(found) < MAX_EXTRA
        ):
            found[name] = str(value)[:MAX_EXTRA_LENGTH]
    return found


def tag(text, request, is_continued):
    """Returns text with tags of its request before its lines, and whether its last line is open.

    `request` is None after an open line of a request. `is_continued`: the text continues such a line.
    """
    tag = f"{SEPARATOR}@{request or ''}{SEPARATOR}"
    if not text:
        return text, is_continued
    is_open = not text.endswith("\n")
    lines = text if is_open else text[:-1]
    if request is not None:
        lines = lines.replace("\n", f"\n{tag}")
    return ("" if is_continued else tag) + lines + ("" if is_open else "\n"), is_open
