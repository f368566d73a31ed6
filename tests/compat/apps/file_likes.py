"""File-like objects: `/NAME` sends one by wsgi.file_wrapper, `/NAME?read` by its read()."""

# ruff: noqa: SIM115 (the server closes them)

import io
import os
import tempfile

# Letters between runs of digits, so that a wrong range is detected.
DATA = b"0123456789" * 20 + b"abcdefghij" * 1000 + b"0123456789" * 20
KINDS = {}
# Write ends of pipes, kept open so that the read ends do not reach end of file.
KEPT = []


def kind(function):
    """Registers the function under its name."""
    KINDS["/" + function.__name__] = function
    return function


def temporary_file(data=DATA, buffering=-1):
    """Makes a temporary file, positioned at its beginning."""
    file = tempfile.TemporaryFile(buffering=buffering)
    file.write(data)
    file.seek(0)
    return file


def descriptor():
    """Returns the descriptor of a temporary file, positioned at its beginning."""
    with temporary_file(buffering=0) as file:
        return os.dup(file.fileno())


class Part:
    """A range of a file, as Django's static view and other libraries implement it."""

    def __init__(self, file, start, end):
        self.file = file
        self.left = end - start
        file.seek(start)

    def read(self, size=-1):
        data = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(data)
        return data

    def tell(self):
        return self.file.tell()

    def fileno(self):
        return self.file.fileno()

    def close(self):
        self.file.close()


class Deciphering:
    """Delegates everything but read() to a file."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def read(self, size=-1):
        return bytes(byte ^ 0x20 for byte in self.file.read(size))


class Upper(io.BufferedReader):
    """A buffered reader with its own read()."""

    def read(self, size=-1):
        return super().read(size).upper()


class UpperRaw(io.FileIO):
    """A raw file with its own readinto()."""

    def readinto(self, buffer):
        data = super().read(len(buffer)).upper()
        buffer[: len(data)] = data
        return len(data)


class Closing(io.FileIO):
    """A subclass that reads like its base class."""

    def close(self):
        super().close()


@kind
def plain():
    return temporary_file()


@kind
def unbuffered():
    return temporary_file(buffering=0)


@kind
def read_only():
    return open(__file__, "rb")


@kind
def from_its_position():
    file = temporary_file()
    file.read(205)
    return file


@kind
def written_but_not_flushed():
    file = temporary_file()
    file.read(10)
    file.write(b"XXXX")
    file.seek(8)
    return file


@kind
def own_close():
    return Closing(descriptor())


@kind
def named_temporary():
    file = tempfile.NamedTemporaryFile()
    file.write(DATA)
    file.seek(5)
    file.read(1)
    return file


@kind
def first_hundred():
    return Part(temporary_file(), 0, 100)


@kind
def a_range():
    return Part(temporary_file(), 200, 260)


@kind
def deciphering():
    return Deciphering(temporary_file())


@kind
def buffered_with_own_read():
    return Upper(io.FileIO(descriptor()))


@kind
def buffered_over_raw_with_own_read():
    return io.BufferedReader(UpperRaw(descriptor()))


@kind
def instance_with_own_read():
    file = temporary_file(buffering=0)
    left = [b"its", b"own"]
    file.read = lambda size: left.pop(0) if left else b""
    return file


@kind
def named_temporary_with_own_read():
    file = named_temporary()
    left = [b"its", b"own"]
    file.read = lambda size: left.pop(0) if left else b""
    return file


@kind
def spooled_in_memory():
    file = tempfile.SpooledTemporaryFile(max_size=1_000_000)
    file.write(DATA)
    file.seek(7)
    return file


@kind
def spooled_on_disk():
    file = tempfile.SpooledTemporaryFile(max_size=10)
    file.write(DATA)
    file.seek(7)
    return file


@kind
def procfs_file():
    return open("/proc/version", "rb")


@kind
def procfs_file_partly_read():
    file = open("/proc/version", "rb", buffering=0)
    file.read(3)
    return file


@kind
def sysfs_file():
    return open("/sys/kernel/mm/transparent_hugepage/enabled", "rb")


@kind
def device():
    return open("/dev/null", "rb")


@kind
def django_file():
    from django.core.files.base import File

    file = File(temporary_file())
    file.seek(9)
    return file


@kind
def django_file_over_named_temporary():
    from django.core.files.base import File

    return File(named_temporary())


@kind
def django_file_that_deciphers():
    from django.core.files.base import File

    class Secret(File):
        def read(self, size=-1):
            return self.file.read(size).upper()

    return Secret(temporary_file())


@kind
def django_content():
    from django.core.files.base import ContentFile

    return ContentFile(DATA)


@kind
def empty_nonblocking_pipe():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    KEPT.append(writing)
    return open(reading, "rb", buffering=0)


def application(environ, start_response):
    """Sends the file through file_wrapper, or the bytes of its read()."""
    file = KINDS[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["QUERY_STRING"]:
        body = b"".join(iter(lambda: file.read(100), b""))
        file.close()
        return [body]
    return environ["wsgi.file_wrapper"](file, 100)
