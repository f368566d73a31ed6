"""File-like objects: `/NAME` sends one by wsgi.file_wrapper, `/NAME?read` sends the bytes of its read()."""

# ruff: noqa: SIM115 (the server closes them)

import io
import os
import tempfile

# Letters between runs of digits, so that a wrong range is detected.
DATA = b"0123456789" * 20 + b"abcdefghij" * 1000 + b"0123456789" * 20
KINDS = {}
KEPT = []


def kind(function):
    """Registers the function under its name."""
    KINDS["/" + function.__name__] = function
    return function


def real(data=DATA, buffering=-1):
    """Makes a temporary file, positioned at its beginning."""
    file = tempfile.TemporaryFile(buffering=buffering)
    file.write(data)
    file.seek(0)
    return file


def descriptor():
    """Returns the descriptor of a temporary file, positioned at its beginning."""
    with real(buffering=0) as file:
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
    def read(self, size=-1):
        return super().read(size).upper()


class UpperRaw(io.FileIO):
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
    return real()


@kind
def unbuffered():
    return real(buffering=0)


@kind
def read_only():
    return open(__file__, "rb")


@kind
def from_its_position():
    file = real()
    file.read(205)
    return file


@kind
def written_and_not_flushed():
    file = real()
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
    return Part(real(), 0, 100)


@kind
def a_range():
    return Part(real(), 200, 260)


@kind
def deciphering():
    return Deciphering(real())


@kind
def buffered_with_its_own_read():
    return Upper(io.FileIO(descriptor()))


@kind
def over_a_raw_with_its_own_read():
    return io.BufferedReader(UpperRaw(descriptor()))


@kind
def object_with_its_own_read():
    file = real(buffering=0)
    left = [b"its", b"own"]
    file.read = lambda size: left.pop(0) if left else b""
    return file


@kind
def named_temporary_with_its_own_read():
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
def of_procfs():
    return open("/proc/version", "rb")


@kind
def of_procfs_read_a_little():
    file = open("/proc/version", "rb", buffering=0)
    file.read(3)
    return file


@kind
def of_sysfs():
    return open("/sys/kernel/mm/transparent_hugepage/enabled", "rb")


@kind
def device():
    return open("/dev/null", "rb")


@kind
def django_file():
    from django.core.files.base import File

    file = File(real())
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

    return Secret(real())


@kind
def django_content():
    from django.core.files.base import ContentFile

    return ContentFile(DATA)


@kind
def that_has_nothing_yet():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    KEPT.append(writing)
    return open(reading, "rb", buffering=0)


def application(environ, start_response):
    """Sends the file by file_wrapper, or the bytes of its read()."""
    file = KINDS[environ["PATH_INFO"]]()
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    if environ["QUERY_STRING"]:
        body = b"".join(iter(lambda: file.read(100), b""))
        file.close()
        return [body]
    return environ["wsgi.file_wrapper"](file, 100)
