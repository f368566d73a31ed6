"""Real proxies with the configurations of packaging/examples, in front of a daemon."""

import os
import shutil
import socket
import subprocess
import threading

import pytest
from support.paths import TOP
from support.ports import free_port
from support.waiting import DEADLINE, wait_until

EXAMPLES = TOP / "packaging" / "examples"
STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
APACHE_MODULES = "/usr/lib/apache2/modules"

NGINX = """
user root;
worker_processes 1;
daemon off;
pid {home}/pid;
error_log {home}/error.log;
events {{ }}
{rest}
"""
NGINX_HTTP = """
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    {example}
}}
"""
APACHE = """
ServerRoot {home}
DefaultRuntimeDir {home}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {home}/pid
ErrorLog {home}/error.log
User www-data
Group www-data
{modules}
StartServers 1
ServerLimit 1
ThreadsPerChild 25
MaxRequestWorkers 25
{example}
"""
CADDY = "{{\n\tadmin off\n\tauto_https off\n}}\n{example}"


def adapted(name, *pairs):
    """Returns an example with the first string of each pair, which must occur, replaced."""
    text = (EXAMPLES / name).read_text()
    for old, new in pairs:
        assert old in text, f"{name} has no {old!r}"
        text = text.replace(old, new)
    return text


def program(name):
    """Returns the path of a program, also from root's directories, or skips the test."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"there is no {name}: tests/run as root installs it")
    return path


class Proxy:
    """A running proxy on its own port. `upstream` is (host, port) or the path of a unix socket."""

    def __init__(self, name, home, upstream):
        self.home, self.upstream, self.port = home, upstream, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = getattr(self, name.replace("-", "_"))()
        self.output = (home / "output").open("w+")
        environment = {**os.environ, "HOME": str(home), "XDG_DATA_HOME": str(home)}
        self.process = subprocess.Popen(
            command, stdout=self.output, stderr=subprocess.STDOUT, env=environment, stdin=subprocess.DEVNULL
        )
        try:
            wait_until(f"{name} listens", self.is_accepting)
        except BaseException:
            self.stop()
            raise

    @property
    def is_unix(self):
        return isinstance(self.upstream, str)

    @property
    def tcp(self):
        """The upstream as `host:port`."""
        return "{}:{}".format(*self.upstream)

    def is_accepting(self):
        """Returns whether the proxy accepts connections; fails the test if the proxy has ended."""
        if self.process.poll() is not None:
            self.output.seek(0)
            log = self.home / "error.log"
            pytest.fail(self.output.read() + (log.read_text() if log.exists() else ""))
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        """Ends the proxy."""
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.output.close()

    def write(self, name, text):
        path = self.home / name
        path.write_text(text)
        return path

    # ------------------------------------------------ the command of each proxy

    def nginx(self):
        upstream = f"unix:{self.upstream}" if self.is_unix else self.tcp
        example = adapted(
            "nginx.conf", ("listen 80;", f"listen 127.0.0.1:{self.port};"), ("unix:/run/rgun.sock", upstream)
        )
        rest = NGINX_HTTP.format(home=self.home, example=example)
        config = self.write("nginx.conf", NGINX.format(home=self.home, rest=rest))
        return [program("nginx"), "-c", config]

    def nginx_stream(self):
        if not os.path.exists(STREAM_MODULE):
            pytest.skip("there is no libnginx-mod-stream: tests/run as root installs it")
        example = adapted(
            "nginx-stream.conf",
            ("listen 443;", f"listen 127.0.0.1:{self.port};"),
            ("127.0.0.1:8000", self.tcp),
        )
        text = f"load_module {STREAM_MODULE};" + NGINX.format(home=self.home, rest=example)
        return [program("nginx"), "-c", self.write("nginx.conf", text)]

    def caddy(self):
        upstream = f"unix/{self.upstream}" if self.is_unix else self.tcp
        example = adapted("Caddyfile", (":80 {", f":{self.port} {{"), ("unix//run/rgun.sock", upstream))
        config = self.write("Caddyfile", CADDY.format(example=example))
        return [program("caddy"), "run", "--adapter", "caddyfile", "--config", config]

    def haproxy(self):
        return self.haproxy_with("haproxy.cfg", "bind :80")

    def haproxy_tcp(self):
        return self.haproxy_with("haproxy-tcp.cfg", "bind :443")

    def haproxy_with(self, name, bind):
        upstream = f"unix@{self.upstream}" if self.is_unix else self.tcp
        example = adapted(
            name,
            (bind, f"bind 127.0.0.1:{self.port}"),
            ("server rgun 127.0.0.1:8000", f"server rgun {upstream}"),
        )
        return [program("haproxy"), "-db", "-f", self.write("haproxy.cfg", example)]

    def apache(self):
        binary = program("apache2")
        upstream = f"unix:{self.upstream}|http://localhost/" if self.is_unix else f"http://{self.tcp}/"
        example = adapted("apache.conf", ("http://127.0.0.1:8000/", upstream))
        names = ("mpm_event", "authz_core", "proxy", "proxy_http", "proxy_wstunnel", "headers", "unique_id")
        modules = "\n".join(f"LoadModule {name}_module {APACHE_MODULES}/mod_{name}.so" for name in names)
        text = APACHE.format(home=self.home, port=self.port, modules=modules, example=example)
        return [binary, "-D", "FOREGROUND", "-f", self.write("apache.conf", text)]


class Relay:
    """Forwards connections to an address and counts them. Listens on `path`, or on a free port."""

    def __init__(self, target, path=None):
        self.target, self.connections = target, 0
        if path is None:
            self.server = socket.create_server(("127.0.0.1", 0))
        else:
            self.server = socket.socket(socket.AF_UNIX)
            self.server.bind(str(path))
            path.chmod(0o666)
            self.server.listen()
        self.address = self.server.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            self.connections += 1
            upstream = socket.socket(socket.AF_UNIX if isinstance(self.target, str) else socket.AF_INET)
            upstream.connect(self.target)
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self.copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def copy(source, sink):
        try:
            while block := source.recv(65536):
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                end.close()

    def stop(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
