"""Finds or installs what the tiers need: Debian packages, virtual environments, interpreters."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from tiers.commands import TARGET, TOP, output, stream

TOOLS = TARGET / "tests" / "tools"
TOOL_PACKAGES = [
    "ruff==0.17.5",  # pinned: another version formats differently
    "tomli; python_version < '3.11'",
]

# Required commands and the Debian packages they are in.
DEBIAN = {
    "cc": "gcc libc6-dev",
    "make": "make",
    "git": "git",
    "readelf": "binutils",
    "man": "man-db groff",
    "curl": "curl",
    "openssl": "openssl",
}
DEBIAN_COMPAT = {
    "chromium": "chromium",
    "nginx": "nginx-light libnginx-mod-stream",
    "haproxy": "haproxy",
    "apache2": "apache2-bin",
    "caddy": "caddy",
    "h2load": "nghttp2-client",
    "openssl": "openssl",
}
# A module, not a command; other distributions have it in nginx itself.
NGINX_STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
DEBIAN_PACKAGES = {
    "cpio": "cpio",
    "dpkg-shlibdeps": "dpkg-dev",
    "lintian": "lintian",
    "rpmbuild": "rpm",
    "rpmlint": "rpmlint",
}
DEBIAN_E2E = {
    "mmdebstrap": "mmdebstrap debian-archive-keyring",
    "dpkg-shlibdeps": "dpkg-dev",
    "mke2fs": "e2fsprogs",
}


def install_debian_packages(tiers):
    """Installs the missing Debian packages as root; otherwise prints the command and exits."""
    wanted = dict(DEBIAN)
    if "compat" in tiers:
        wanted.update(DEBIAN_COMPAT)
    if "packages" in tiers:
        wanted.update(DEBIAN_PACKAGES)
    if "e2e" in tiers:
        wanted.update(DEBIAN_E2E)
    # Servers are in a directory that only root has on its PATH.
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [names for command, names in wanted.items() if shutil.which(command, path=path) is None]
    if "compat" in tiers and not os.path.exists(NGINX_STREAM_MODULE):
        missing.append("libnginx-mod-stream")
    # Debian has ensurepip in a package of its own, without a command.
    if subprocess.run(
        [sys.executable, "-c", "import ensurepip"], capture_output=True, check=False
    ).returncode:
        missing.append("python3-venv")
    names = " ".join(missing).split()
    if not names:
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"tests/run: missing, and there is no apt-get to install it: {' '.join(names)}")
    install = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    if os.geteuid() != 0:
        print("The tests need some packages. As root:", file=sys.stderr)
        print(f"    apt-get update && {' '.join(install)}", file=sys.stderr)
        sys.exit(1)
    for command in (["apt-get", "update"], install):
        if stream(command, {"DEBIAN_FRONTEND": "noninteractive"})[0] != 0:
            sys.exit("tests/run: apt-get failed")


def environment_with(path, python, *packages):
    """Returns the Python of a virtual environment, made again when packages or interpreter change."""
    version = output(python, "-c", "import sys; print(sys.version, sys.base_prefix)")
    wanted = hashlib.sha256("\0".join([version, *packages]).encode()).hexdigest()
    stamp = path / "stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return path / "bin" / "python"
    output(python, "-m", "venv", "--clear", path)
    inside = path / "bin" / "python"
    code, _ = stream([inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    if code != 0:
        sys.exit(f"tests/run: pip could not install {' '.join(packages)}")
    stamp.write_text(wanted)
    return inside


def required(tier):
    """Returns the packages in a requirements.txt below tests/."""
    lines = (TOP / "tests" / tier / "requirements.txt").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def tools_python():
    return environment_with(TOOLS, sys.executable, *TOOL_PACKAGES)


def ruff():
    return [tools_python(), "-m", "ruff"]


def interpreters():
    """Returns the CPythons >= 3.9 of this machine, one per version: on PATH by name, and pyenv's."""
    names = [shutil.which(f"python3.{minor}") for minor in range(9, 30)]
    root = pathlib.Path(os.environ.get("PYENV_ROOT") or pathlib.Path.home() / ".pyenv")
    names += sorted(root.glob("versions/*/bin/python3"))
    names.append(shutil.which("python3"))
    script = (
        "import sys, sysconfig; print(sys.implementation.name, '%d.%d' % sys.version_info[:2], "
        "sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    )
    found = {}
    for name in filter(None, names):
        answer = subprocess.run([name, "-c", script], capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            continue  # a pyenv shim of a version that is not chosen here
        implementation, version, free_threaded = answer.stdout.split()
        number = tuple(int(part) for part in version.split("."))
        if implementation == "cpython" and number >= (3, 9) and free_threaded == "0":
            found.setdefault(number, str(name))
    return [(f"{major}.{minor}", name) for (major, minor), name in sorted(found.items())]
