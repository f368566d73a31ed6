"""The Python part of log_records.rs: writes records of `logging` for the daemon, and tags printed lines.

The forms are in src/channel/log_record.rs. Embedded into the extension and run when the application imports
`logging` or prints a line in a request, unless `log.records` is false. Runs on CPython 3.9 and later.
"""

import contextlib
import functools
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
# Attributes of each record; others are from `extra`.
standard_attributes = frozenset()


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
    global standard_attributes
    handler = logging.StreamHandler
    emit_text, find_write = handler.emit, write_of
    # A formatter sets the last two.
    standard_attributes = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime"])

    def emit(self, record):
        stream = getattr(self, "stream", None)
        write = find_write(stream) if self.terminator == "\n" else None
        if write is None:
            emit_text(self, record)
            return
        try:
            text = self.format(record)
            for line in lines_of(record, text, stream.encoding):
                write(line)
            self.flush()
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 (as in `logging`)
            self.handleError(record)

    emit.__doc__ = emit_text.__doc__
    emit.__module__, emit.__qualname__ = emit_text.__module__, emit_text.__qualname__
    handler.emit = emit


def lines_of(record, text, encoding):
    """Returns the lines that stand for a record, whose formatted text is `text`; usually one."""
    is_ascii = text.isascii()
    if not is_ascii:
        # A lone surrogate has no form in JSON.
        text = text.encode("utf-8", "backslashreplace").decode()
    quote = quote_for(encoding)
    fields = (
        f',"logger":{quote(record.name)},"file":{quote(record.pathname)},"line":{quote(record.lineno)}'
        f',"function":{quote(record.funcName)},"thread":{quote(record.threadName)}'
        f',"process":{quote(record.processName)}'
    )
    current = request_id()
    if current is not None:
        fields += f',"request_id":{quote(current)}'
    others = vars(record).keys() - standard_attributes
    if others:
        extra = (f"{quote(name)}:{quote(value)}" for name, value in extra_fields(record, others))
        fields += f',"extra":{{{",".join(extra)}}}'
    if not fields.isascii():
        # Surrogates in names of files.
        fields = fields.encode("utf-8", "replace").decode()
    start = f'{SEPARATOR}{{"rgun":"record","priority":{priority(record.levelno)},"message":'
    length = MAX_MESSAGE if is_ascii else MAX_MESSAGE // MAX_CHARACTER
    if len(text) <= length:
        return [f"{start}{quote(text)}{fields}}}\n"]
    parts = (text[at : at + length] for at in range(0, len(text), length))
    return [f"{start}{quote(part)}{fields}}}\n" for part in parts]


@functools.lru_cache(maxsize=8)
def quote_for(encoding):
    """Returns the function that writes a value as JSON for a stream of this encoding."""
    from json import dumps, encoder

    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    # Five times as fast as an encoder of objects.
    quote_text = encoder.encode_basestring if is_utf8 else encoder.encode_basestring_ascii

    def quote(value):
        if type(value) is str:
            return quote_text(value)
        if type(value) is int:
            return str(value)
        return dumps(value, default=str, ensure_ascii=not is_utf8)

    return quote


def priority(level):
    """Returns the priority of a level, as in syslog(3)."""
    for bound, number in PRIORITIES:
        if level <= bound:
            return number
    return 1


def extra_fields(record, names):
    """Returns name and text of each attribute that `extra` has set and whose name a journal field may have.

    The daemon ignores names that are invalid or its own.
    """
    for name in sorted(filter(str.isupper, names))[:MAX_EXTRA]:
        value = getattr(record, name)
        if isinstance(value, (str, int, float)):
            yield name, str(value)[:MAX_EXTRA_LENGTH]


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
