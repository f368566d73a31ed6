"""Data of several tests: a multipart form with a text and a file, and applications' sources."""

from support.paths import COMPAT_APPS

FORM = (
    b'--edge\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\xa6ble\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="f.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + b"f" * 300_000 + b"\r\n--edge--\r\n"
)
MULTIPART = [("Content-Type", "multipart/form-data; boundary=edge")]


def source_of(name):
    """Returns the source of an application's module, which the application sends as a file."""
    return (COMPAT_APPS / f"{name}.py").read_bytes()
