"""The Debian package and the rpm: the same files, and checked by the distributions' own tools."""

import gzip
import json
import os
import re
import subprocess
import zlib

import pytest
from support.paths import TOP
from venv_with_rgun import run

# Each distribution's place for the licence, the packager's changes and the completion of zsh.
OWN_PLACES = re.compile(r"/usr/share/(licenses/|zsh/|lintian/|doc/rgun/changelog\.gz$)")
CONFIGURATION = "etc/rgun/rgun.toml"


@pytest.fixture(scope="module")
def deb(only):
    """The path of the Debian package."""
    return only("rgun_*.deb")


@pytest.fixture(scope="module")
def rpm(only):
    """The path of the rpm."""
    return only("rgun-*.rpm")


@pytest.fixture(scope="module")
def contents(deb, rpm, tmp_path_factory):
    """The files of both packages: a dictionary of contents by path, for each of deb and rpm."""
    trees = [tmp_path_factory.mktemp(kind) for kind in ("deb", "rpm")]
    run(["dpkg-deb", "--extract", deb, trees[0]])
    archive = subprocess.run(["rpm2cpio", rpm], check=True, capture_output=True).stdout
    extract = ["cpio", "--extract", "--make-directories", "--quiet"]
    subprocess.run(extract, cwd=trees[1], input=archive, check=True)
    return [files_of(tree) for tree in trees]


def files_of(tree):
    """Returns contents by path; for a compressed file, name and content after decompression."""
    found = {}
    for path in tree.rglob("*"):
        name = f"/{path.relative_to(tree)}"
        if path.is_file() and not OWN_PLACES.match(name):
            data = path.read_bytes()
            found[name.removesuffix(".gz")] = gzip.decompress(data) if name.endswith(".gz") else data
    return found


def test_deb_and_rpm_have_the_same_files(contents):
    deb, rpm = contents
    assert sorted(deb) == sorted(rpm)
    assert [path for path in deb if deb[path] != rpm[path]] == []


def test_packages_disable_their_units_by_a_preset(contents):
    for files in contents:
        lines = files["/usr/lib/systemd/system-preset/80-rgun.preset"].decode().splitlines()
        assert {"disable rgun.service", "disable rgun.socket"} <= set(lines)


@pytest.mark.parametrize(
    ("program", "package", "linked", "not_linked"),
    [
        ("/usr/bin/rgun", "rgun", {"hyper", "rustls", "rgun-channel"}, {"pyo3", "rcgen", "cc"}),
        ("/usr/lib/rgun/rgun_worker.abi3.so", "rgun-worker", {"pyo3", "rgun-channel"}, {"hyper", "tokio"}),
    ],
)
def test_program_lists_the_crates_in_it(contents, tmp_path, program, package, linked, not_linked):
    path, section = tmp_path / "program", tmp_path / "section"
    path.write_bytes(contents[0][program])
    if os.environ.get("PROFILE", "release") != "release":
        # Only `make optimized` adds the list. Here it is added to the program of another profile.
        run([TOP / "packaging/audit-data", package, path])
    run(["objcopy", f"--dump-section=.dep-v0={section}", path, tmp_path / "copy"])
    listed = json.loads(zlib.decompress(section.read_bytes()))["packages"]
    names = {entry["name"] for entry in listed}
    assert linked <= names
    assert not not_linked & names
    (root,) = (entry for entry in listed if entry.get("root"))
    assert (root["name"], root["source"]) == (package, "local")
    assert all(index < len(listed) for entry in listed for index in entry.get("dependencies", []))
    if package == "rgun":
        path.chmod(0o755)
        assert run([path, "--version"]).startswith("rgun ")


def test_deb_passes_lintian(deb):
    flags = ["--fail-on=error,warning", "--allow-root", "--suppress-tags=bad-distribution-in-changes-file"]
    run(["lintian", *flags, deb])


def test_rpm_passes_rpmlint(rpm):
    run(["rpmlint", "--strict", "--rpmlintrc", TOP / "packaging/rpm/rpmlintrc", rpm])


def test_rpm_needs_systemd_and_no_python(rpm):
    needed = run(["rpm", "--query", "--package", "--requires", rpm])
    assert "systemd >= 252" in needed.splitlines()
    assert "python" not in needed


MACROS = """\
%systemd_post() macro-post %{*}
%systemd_preun() macro-preun %{*}
%systemd_postun_with_restart() macro-postun %{*}
"""


def scriptlets(tmp_path, macros):
    """Returns the scriptlets of the spec, as rpm expands them with these macros of systemd only."""
    names = ("systemd_post", "systemd_preun", "systemd_postun_with_restart")
    (tmp_path / "macros").write_text(macros)
    (tmp_path / "files").write_text("")
    spec = tmp_path / "rgun.spec"
    spec.write_text((TOP / "packaging/rpm/rgun.spec.in").read_text().replace("@VERSION@", "1"))
    undefined = [f"--undefine={name}" for name in names]
    return run(["rpmspec", *undefined, "--load", tmp_path / "macros", "--parse", spec]).partition("%post\n")[
        2
    ]


def test_rpm_scriptlets_use_the_macros_of_systemd(tmp_path):
    units = "rgun.socket rgun.service rgun-metrics.socket"
    expanded = scriptlets(tmp_path, MACROS)
    for line in (f"macro-post {units}", f"macro-preun {units}", "macro-postun rgun.service"):
        assert f"\n{line}\n" in expanded
    assert "systemd-update-helper" not in expanded
    assert "try-restart 'rgun@*.service'" in expanded


def test_rpm_scriptlets_need_no_macros(tmp_path):
    expanded = scriptlets(tmp_path, "")
    for command in ("install-system-units", "remove-system-units", "mark-restart-system-units"):
        assert f"/usr/lib/systemd/systemd-update-helper {command} " in expanded
    assert "%" not in expanded.partition("%files")[0].replace("%preun", "").replace("%postun", "")


# Installs, upgrades and removes the rpm in a root directory whose changes stay in memory. Without
# dependencies, because rpm does not know what dpkg has installed. $1 is the package; each
# line of output is a fact.
IN_ROOT = r"""
set -eu
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cp "$1" /mnt/root/rgun.rpm
mount -t proc proc /mnt/root/proc
exec chroot /mnt/root sh -eu <<'INSIDE'
rm -rf /etc/rgun /usr/bin/rgun /usr/lib/rgun
rpm="rpm --force-debian --nodeps"
$rpm -i rgun.rpm
id -un rgun
stat -c '%U:%G %a' /etc/rgun/rgun.toml
/usr/bin/rgun --version | cut -d' ' -f1
echo '# changed' >>/etc/rgun/rgun.toml
$rpm -U --replacepkgs rgun.rpm
tail -1 /etc/rgun/rgun.toml
rpm -V --nodeps rgun | tr -s ' ' || true
$rpm -e rgun
for path in /usr/bin/rgun /usr/lib/rgun /usr/share/doc/rgun /usr/lib/systemd/system/rgun.socket; do
    test -e $path || echo "no $path"
done
ls /etc/rgun
INSIDE
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a root directory of its own")
def test_rpm_installs_upgrades_and_is_removed(rpm):
    facts = run(["unshare", "--mount", "--pid", "--fork", "sh", "-c", IN_ROOT, "sh", rpm]).splitlines()
    facts = [line for line in facts if not line.startswith("warning: ")]
    assert facts == [
        "rgun",
        "root:rgun 640",
        "rgun",
        "# changed",
        f"S.5....T. c /{CONFIGURATION}",
        "no /usr/bin/rgun",
        "no /usr/lib/rgun",
        "no /usr/share/doc/rgun",
        "no /usr/lib/systemd/system/rgun.socket",
        "rgun.toml.rpmsave",
    ]
