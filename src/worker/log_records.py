"""The Python part of log_records.rs: writes records of `logging` for the daemon, and tags printed lines.

The forms are in src/channel/log_record.rs. Embedded into the extension and run when the application imports
`logging` or prints a line in a request, unless `log.records` is false. Runs on CPython 3.9 and later.
"""

import contextlib
import functools
import sys

# Maximum number of bytes of a message in one record, as for a line (`MAX_LINE` of
# src/daemon/journal/output_lines.rs); a longer message becomes several records.
#
# A byte has at most six bytes in JSON, and a character at most twelve, so a record has at most 6 * 48 KiB
# for its message, 6 * 12 KiB for its names and 128 KiB for its other fields: less than MAX_RECORD_BYTES of
# src/channel/log_record.rs.
MAX_MESSAGE = 48 * 1024
# Maximum number of bytes of a character in UTF-8.
MAX_CHARACTER = 4
# Maximum number of characters of the name of a logger, file, function, thread or process.
MAX_NAME = 1024
# Maximum numbers of fields from the argument `extra` of a call, of characters of the name (as in journald)
# and of the value of one, and of bytes of all.
MAX_EXTRA = 32
MAX_EXTRA_NAME = 64
MAX_EXTRA_LENGTH = 2048
MAX_EXTRA_BYTES = 128 * 1024
# The levels of `logging`, from the least severe, with the priorities that python-systemd's JournalHandler
# gives them. A level above all of these has priority 1.
PRIORITIES = ((10, 7), (20, 6), (30, 4), (40, 3), (50, 2))

# Set by `install`. `write_of(stream)` returns the function that writes a record to a stream of the daemon;
# None for another stream. `request_id()` returns the id of the current request, or None. `marker` begins
# each record.
write_of = request_id = marker = None
# Attributes of each record; others are from `extra`.
standard_attributes = frozenset()


def install(find_write, current_request, begin):
    """Sets the functions of the extension that this module calls, and the beginning of records."""
    global write_of, request_id, marker
    write_of, request_id, marker = find_write, current_request, begin


def find_logging(own_finder, name, path, target):
    """Finds the module `logging` by the other finders, and has `emit` replaced after the import."""
    # Old finders have no find_spec; none of them finds the standard library.
    others = [finder for finder in sys.meta_path if finder is not own_finder and hasattr(finder, "find_spec")]
    found = (finder.find_spec(name, path, target) for finder in others)
    spec = next((spec for spec in found if spec is not None), None)
    loader = spec and spec.loader

    def exec_module(module):
        del loader.exec_module
        # Here, and not before: `find_spec` may be called without an import.
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not own_finder]
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
    quote_text = quote_for(encoding)

    def quote(value):
        if type(value) is int:
            return str(value)
        return "null" if value is None else quote_text(without_surrogates(str(value)[:MAX_NAME]))

    fields = (
        f',"logger":{quote(record.name)},"file":{quote(record.pathname)},"line":{quote(record.lineno)}'
        f',"function":{quote(record.funcName)},"thread":{quote(record.threadName)}'
        f',"process":{quote(record.processName)}'
    )
    current = request_id()
    if current is not None:
        fields += f',"request_id":{quote_text(current)}'
    others = vars(record).keys() - standard_attributes
    if others:
        fields += f',"extra":{{{extra_fields(record, others, quote_text)}}}'
    start = f'{marker}{{"rgun":"record","priority":{priority(record.levelno)},"message":'
    length = MAX_MESSAGE if is_ascii else MAX_MESSAGE // MAX_CHARACTER
    if len(text) <= length:
        return [f"{start}{quote_text(text)}{fields}}}\n"]
    parts = (text[at : at + length] for at in range(0, len(text), length))
    return [f"{start}{quote_text(part)}{fields}}}\n" for part in parts]


def without_surrogates(text):
    """Returns text in which "?" replaces lone surrogates, which names of files have and JSON has not."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


@functools.lru_cache(maxsize=8)
def quote_for(encoding):
    """Returns the function that writes a text as JSON for a stream of this encoding."""
    from json import encoder

    is_utf8 = encoding.lower().replace("-", "") == "utf8"
    # Five times as fast as an encoder of objects.
    return encoder.encode_basestring if is_utf8 else encoder.encode_basestring_ascii


def priority(level):
    """Returns the priority of a level, as in syslog(3)."""
    for bound, number in PRIORITIES:
        if level <= bound:
            return number
    return 1


def extra_fields(record, names, quote_text):
    """Returns the attributes that `extra` has set, as JSON without braces.

    Only those whose names a journal field may have; the daemon ignores names that are invalid or its own.
    """
    fields, n_bytes = [], 0
    for name in sorted(filter(str.isupper, names))[:MAX_EXTRA]:
        value = getattr(record, name)
        if len(name) > MAX_EXTRA_NAME or not isinstance(value, (str, int, float)):
            continue
        try:
            text = without_surrogates(str(value)[:MAX_EXTRA_LENGTH])
        except Exception:  # noqa: BLE001, S112 (an integer of too many digits, or an application's __str__)
            continue
        field = f"{quote_text(without_surrogates(name))}:{quote_text(text)}"
        n_bytes += len(field.encode()) + 1
        if n_bytes > MAX_EXTRA_BYTES:
            break
        fields.append(field)
    return ",".join(fields)
