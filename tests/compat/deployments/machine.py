"""A directory that stands for the machine of a deployment: its files, its Python, its port."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

import command
from support.certificate import make_certificate
from support.paths import daemon_binary
from support.ports import free_port

# Stand-ins for the applications, which answer with facts about the worker and the request.
WSGI = """\
import json, os, sys

def answer(environ):
    facts = {
        "prefix": sys.prefix,
        "directory": os.getcwd(),
        "scheme": environ["wsgi.url_scheme"],
        "client": environ["REMOTE_ADDR"],
        "script_name": environ["SCRIPT_NAME"],
        "threads": environ["wsgi.multithread"],
        "processes": environ["wsgi.multiprocess"],
        "settings": os.environ.get("DJANGO_SETTINGS_MODULE"),
    }
    return json.dumps(facts).encode()

def stand_in(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer(environ)]

"""
ASGI = """\
import json, os, sys

state = {"lifespan": "off"}

async def stand_in(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            state["lifespan"] = "started"
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    facts = {
        "prefix": sys.prefix,
        "directory": os.getcwd(),
        "scheme": scope["scheme"],
        "client": scope["client"] and scope["client"][0],
        "root_path": scope["root_path"],
        "lifespan": state["lifespan"],
        "loop": type(__import__("asyncio").get_running_loop()).__module__.split(".")[0],
        "settings": os.environ.get("DJANGO_SETTINGS_MODULE"),
    }
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(facts).encode()})

"""
# Lets Python see two processors, so that every test machine starts the same number of workers.
TWO_PROCESSORS = "import os; os.cpu_count = lambda: 2\n"
# Paths that are moved below the root, besides the top directories of a deployment's files.
MOVED = {
    "app",
    "certs",
    "code",
    "etc",
    "home",
    "opt",
    "run",
    "srv",
    "tmp",
    "usr/bin/gunicorn",
    "usr/local",
    "usr/src",
    "var",
}
PYTHON_VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"


class Machine:
    """The files of one deployment below `root`, with all paths and the port rewritten."""

    def __init__(self, deployment):
        self.deployment = deployment
        # Short, because the path of a unix socket has at most 107 bytes.
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="rgun-", dir="/tmp"))
        self.port = free_port() if deployment.port else None
        self.is_https = bool(deployment.values.get("https"))
        paths = [*deployment.files, deployment.module, deployment.directory, deployment.venv or ""]
        own = {path.split("/")[1] for path in paths if path} - {"", "usr"}
        tops = "|".join(re.escape(top) for top in sorted(MOVED | own, reverse=True))
        self.moved = re.compile(rf"(?<![\w.}}/])/(?=(?:{tops})(?![\w.-]))")
        self.write_files()
        self.make_environment(self.at(deployment.venv or "/usr/local"))
        if deployment.venv:
            self.make_environment(self.at("/usr/local"))
        self.link("/usr/bin/rgun", daemon_binary())
        if deployment.rgun:
            self.link(deployment.rgun, daemon_binary())
        self.write("/usr/local/bin/nproc", "#!/bin/sh\necho 2\n")
        if self.is_https:
            make_certificate(self.at("/certs"))

    def close(self):
        shutil.rmtree(self.root)

    # ------------------------------------------------ files

    def at(self, path):
        """Returns the path below the root for a path of the deployment."""
        return self.root / path.lstrip("/")

    def rewrite(self, text):
        """Returns a text of the deployment with the paths and the port of this machine."""
        text = self.moved.sub(f"{self.root}/", text)
        if self.port:
            text = re.sub(rf"\b{self.deployment.port}\b", str(self.port), text)
        return text

    def normalize(self, text):
        """Returns an output with the deployment's paths and port, the inverse of `rewrite`."""
        text = text.replace(f"{self.root}/", "/").replace(str(self.root), "/")
        if self.port:
            text = re.sub(rf"\b{self.port}\b", self.deployment.port, text)
        return text

    def write(self, path, text):
        """Writes one file; a script is executable."""
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        place.chmod(0o755 if text.startswith("#!") else 0o644)

    def link(self, path, target):
        place = self.at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def write_files(self):
        """Writes the application and the deployment's files, and makes common directories."""
        deployment = self.deployment
        source = WSGI if deployment.interface == "wsgi" else ASGI
        if deployment.is_factory:
            source += f"def {deployment.attribute}(*args):\n    return stand_in\n"
        else:
            source += f"{deployment.attribute} = stand_in\n"
        self.write(deployment.module, source)
        for path, text in deployment.files.items():
            self.write(path, self.rewrite(text))
        for directory in ("/run", "/tmp", "/var/log", "/root", deployment.directory):
            self.at(directory).mkdir(parents=True, exist_ok=True)

    def make_environment(self, prefix):
        """Writes the files of a virtual environment without pip, faster than the module venv."""
        base = pathlib.Path(os.path.realpath(sys.executable))
        packages = prefix / "lib" / PYTHON_VERSION / "site-packages"
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "two_processors.pth").write_text(TWO_PROCESSORS, encoding="utf-8")
        (prefix / "bin").mkdir(exist_ok=True)
        (prefix / "bin" / "python").symlink_to(base)
        (prefix / "bin" / "python3").symlink_to("python")
        (prefix / "bin" / "activate").write_text(
            f'export VIRTUAL_ENV="{prefix}" PATH="{prefix}/bin:$PATH"\n', encoding="utf-8"
        )
        text = f"home = {base.parent}\ninclude-system-site-packages = false\n"
        (prefix / "pyvenv.cfg").write_text(text, encoding="utf-8")

    # ------------------------------------------------ the command

    def command(self, is_changed=True):
        """Returns the command of the deployment, with the server's name replaced by rgun.

        In a script, the name is replaced in the file. Without `is_changed`, the name stays.
        """
        deployment = self.deployment
        rgun = deployment.rgun and str(self.at(deployment.rgun))
        if deployment.kind == "script":
            assert is_changed
            path = self.at(deployment.start)
            path.write_text(command.with_rgun(path.read_text(), rgun))
            return command.script(str(path))
        if deployment.kind == "command":
            found = command.Command(self.rewrite(deployment.start))
        else:
            text = self.rewrite(deployment.files[deployment.start])
            socket_unit = deployment.files.get(deployment.start.replace(".service", ".socket"), "")
            more = [self.rewrite(socket_unit)] if deployment.kind == "unit" else []
            found = command.READERS[deployment.kind](text, *more)
        if is_changed:
            found.line = command.with_rgun(found.line, rgun)
        return found

    def write_start_script(self):
        """Writes a script with the unchanged command; returns its path."""
        found = self.command(is_changed=False)
        directory = found.directory or self.at(self.deployment.directory)
        self.write("/root/start.sh", f"#!/bin/sh\ncd {directory}\n{found.line}\n")
        return self.at("/root/start.sh")

    def address(self):
        """Returns the address of the deployment: a pair, or the path of a unix socket."""
        return ("127.0.0.1", self.port) if self.port else str(self.at(self.deployment.socket))

    def environment(self, found):
        """Returns the environment of the command, which has no variables of this process."""
        path = ":".join([str(self.at("/usr/local/bin")), str(self.at("/usr/bin")), "/usr/bin", "/bin"])
        # Replaces the default address, which need not be free on this machine.
        default = {"RGUN_LISTEN_BIND": f"127.0.0.1:{self.port}"} if self.deployment.is_default_port else {}
        own = {"PATH": path, "HOME": str(self.at("/root")), "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        given = {name: self.rewrite(value) for name, value in self.deployment.env.items()}
        env = {**own, **default, **given}
        for name in found.environment_files:
            env.update(line.split("=", 1) for line in pathlib.Path(name).read_text().split())
        for name, value in found.env.items():
            env[name] = value.replace("$PATH", path)
        # Even if the deployment sets PATH: systemd finds rgun anyway, images have rgun beside sh.
        env["PATH"] += f":{self.at('/usr/bin')}"
        return env

    def start(self, found):
        """Starts the command as systemd, a container or a platform does; returns the process."""
        for directory in found.runtime_directories:
            self.at(directory).mkdir(exist_ok=True)
        listeners = [listen(address) for address in found.sockets]
        line = found.line
        if listeners:
            line = f"export LISTEN_PID=$$ LISTEN_FDS={len(listeners)}; {line}"
        descriptors = [listener.fileno() for listener in listeners]

        def pass_sockets():
            # First to high numbers, so that no dup2() below overwrites another socket.
            high = [
                os.dup2(descriptor, 200 + idx, inheritable=False)
                for idx, descriptor in enumerate(descriptors)
            ]
            for idx, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + idx)

        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            cwd=found.directory or self.at(self.deployment.directory),
            env=self.environment(found),
            preexec_fn=pass_sockets if listeners else None,
            close_fds=not listeners,
        )
        for listener in listeners:
            listener.close()
        return process


def listen(address):
    """Returns a socket that listens at the address of a socket unit."""
    if address.startswith("/"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
    else:
        host, _, port = address.rpartition(":")
        listener = socket.create_server((host or "127.0.0.1", int(port)))
    listener.listen()
    return listener
