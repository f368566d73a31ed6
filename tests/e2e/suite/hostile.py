"""A WSGI application that attacks its daemon on request. Needs only Python 3.9.

`/NAME/PID` runs an attack on a process; the response is the name of the error, or empty for a success.
"""

import ctypes
import errno
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
# Waits for tracees that are not children (wait(2)).
WALL = 0x40000000
# The number is the same on all architectures that have systemd's service (pidfd_getfd(2)).
SYS_PIDFD_GETFD = 438
CONTROL = "/run/rgun/control"
RELOAD = b'{"method":"io.rgun.Server.Reload"}\0'
STATUS = b'{"method":"io.rgun.Server.Status"}\0'
# Orphans itself, requests a reload and writes the reply into the file that the argument names.
ORPHAN = """
import os, socket, sys, time
if os.fork():
    os._exit(0)
while os.getppid() != int(sys.argv[2]):
    time.sleep(0.01)
client = socket.socket(socket.AF_UNIX)
client.connect("/run/rgun/control")
client.sendall(b'{"method":"io.rgun.Server.Reload"}\\0')
reply = client.makefile().read()
open(sys.argv[1] + ".new", "w").write(reply)
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def application(environ, start_response):
    """Runs the attack that the path names."""
    name, _, target = environ["PATH_INFO"].strip("/").partition("/")
    name, _, argument = name.partition("-")
    try:
        is_own = target == str(os.getpid())
        result = "itself" if is_own else ATTACKS[name](argument or int(target)) or ""
    except OSError as error:
        result = errno.errorcode[error.errno]
    body = result.encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def checked(result):
    """Raises the error of a function of the C library."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def trace(pid):
    """Traces the process, and lets it go again: a traced daemon would not react to SIGTERM."""
    checked(LIBC.ptrace(PTRACE_SEIZE, pid, None, None))
    checked(LIBC.ptrace(PTRACE_INTERRUPT, pid, None, None))
    os.waitpid(pid, WALL)
    checked(LIBC.ptrace(PTRACE_DETACH, pid, None, None))


def open_memory(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))


def read_descriptor_name(pid):
    os.readlink(f"/proc/{pid}/fd/0")


class Range(ctypes.Structure):
    """A range of memory (iovec(3type))."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def read_memory(pid):
    """Reads a byte at an address that is never mapped: EFAULT if the kernel permits reading at all."""
    own = Range(ctypes.cast(ctypes.create_string_buffer(1), ctypes.c_void_p), 1)
    other = Range(8, 1)
    checked(LIBC.process_vm_readv(pid, ctypes.byref(own), 1, ctypes.byref(other), 1, 0))


def take_descriptor(pid):
    pidfd = os.pidfd_open(pid)
    try:
        os.close(checked(LIBC.syscall(SYS_PIDFD_GETFD, pidfd, 0, 0)))
    finally:
        os.close(pidfd)


def send_signal(pid):
    """Sends SIGWINCH, which does nothing."""
    os.kill(pid, 28)


def own_cgroup():
    """Returns the directory of this process's cgroup of version 2, even on a hybrid host."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    (path,) = [line[len("0::/") :] for line in lines if line.startswith("0::/")]
    hybrid = pathlib.Path("/sys/fs/cgroup/unified")
    return (hybrid if hybrid.exists() else hybrid.parent) / path


def lift_limit(_):
    """Opens the file of a limit for writing, as `echo max > pids.max` does."""
    os.close(os.open(own_cgroup() / "cgroup.max.depth", os.O_WRONLY))


def leave_cgroup(_):
    (own_cgroup().parent.parent / "daemon" / "cgroup.procs").write_text("0")


def read_environ(pid):
    pathlib.Path(f"/proc/{pid}/environ").read_bytes()


def open_file(path):
    """Opens a file, whose path has | in place of /."""
    os.close(os.open(path.replace("|", "/"), os.O_RDONLY))


def variable(name):
    return os.environ.get(name, "unset")


def write_to_stderr(_):
    """Opens standard error by its path, as a logging.FileHandler does."""
    os.close(os.open("/dev/stderr", os.O_WRONLY))


def request_reload(_):
    """Requests a reload; returns the daemon's reply."""
    return call(RELOAD)


def request_status(_):
    """Requests the status, which members of control.group may read; returns the daemon's reply."""
    return call(STATUS)


def call(message):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(CONTROL)
        client.sendall(message)
        return client.makefile().read()


def request_reload_as_orphan(daemon):
    """Starts a program that orphans itself and requests a reload; returns the file for the reply."""
    reply = pathlib.Path(tempfile.mkdtemp(dir=os.environ["STATE_DIRECTORY"])) / "reply"
    subprocess.run([sys.executable, "-c", ORPHAN, str(reply), str(daemon)], check=True)
    return str(reply)


def work(_):
    """Does what an application may do: moves, links and writes files, starts and signals a program."""
    for parent in (os.environ["STATE_DIRECTORY"], "/tmp", "/dev/shm"):
        with tempfile.TemporaryDirectory(dir=parent) as directory:
            one, two = pathlib.Path(directory, "one"), pathlib.Path(directory, "two")
            one.mkdir()
            two.mkdir()
            (one / "file").write_text("text")
            (one / "file").rename(two / "file")
            os.link(two / "file", one / "link")
            two.rename(one / "inner")
            (one / "inner" / "file").write_text("more")
    with open("/dev/null", "w") as null:
        null.write("text")
    memory = os.memfd_create("memory")
    with open(f"/proc/self/fd/{memory}", "w") as file:
        file.write("text")
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    os.kill(child.pid, 0)
    child.terminate()
    child.wait()


ATTACKS = {
    function.__name__: function
    for function in (
        trace,
        open_memory,
        read_descriptor_name,
        read_memory,
        take_descriptor,
        send_signal,
        read_environ,
        open_file,
        variable,
        write_to_stderr,
        request_status,
        lift_limit,
        leave_cgroup,
        request_reload,
        request_reload_as_orphan,
        work,
    )
}
