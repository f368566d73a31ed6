"""The hook that adds the daemon and the workers' files to the wheel.

`make wheel` sets three variables: RGUN_BUILD_DIR, the directory of programs that are built already;
RGUN_WHEEL_PLATFORM, the platform that they run on; and RGUN_COPYRIGHT, the file with the licences of their
crates. Without them, as when pip installs the source distribution, the hook builds the programs with cargo,
for this machine; RGUN_CARGO_PROFILE names a profile other than release.
"""

import os
import pathlib
import shutil
import subprocess
import sysconfig

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Where the daemon looks for the workers' files, relative to itself: `../lib/rgun`.
LIBRARY = "lib/rgun"


class CustomBuildHook(BuildHookInterface):
    """Adds the programs, and the tag of their platform."""

    def initialize(self, version, build_data):
        """Called by hatchling before it writes the wheel."""
        top = pathlib.Path(self.root)
        built = os.environ.get("RGUN_BUILD_DIR")
        platform = os.environ.get("RGUN_WHEEL_PLATFORM")
        directory = pathlib.Path(built) if built else compile_programs(top)
        extension = "rgun_worker.abi3.so" if built else "librgun_worker.so"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform or local_platform()}"
        build_data["shared_scripts"][str(directory / "rgun")] = "rgun"
        build_data["shared_data"].update(
            {
                str(directory / extension): f"{LIBRARY}/rgun_worker.abi3.so",
                str(top / "src/worker/main_module.py"): f"{LIBRARY}/rgun_main.py",
            }
        )
        if os.environ.get("RGUN_COPYRIGHT"):
            build_data["shared_data"][os.environ["RGUN_COPYRIGHT"]] = "share/doc/rgun/copyright"


def local_platform():
    """Returns the tag of this machine, such as `linux_x86_64`."""
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def compile_programs(top):
    """Builds daemon and extension, and returns the directory that they are in."""
    if shutil.which("cargo") is None:
        raise SystemExit(
            "rgun: there is no cargo, which builds rgun from source: install Rust 1.91 or newer from your "
            "distribution or with rustup, or install a wheel of rgun, which needs no compiler"
        )
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or top / "target").absolute()
    profile = os.environ.get("RGUN_CARGO_PROFILE", "release")
    for package in ("rgun", "rgun-worker"):
        command = ["cargo", "build", "--locked", "--profile", profile, "--package", package]
        done = subprocess.run([*command, "--target-dir", target], cwd=top, check=False)
        if done.returncode:
            raise SystemExit(f"rgun: {' '.join(command)} failed with status {done.returncode}: see above")
    return target / ("debug" if profile == "dev" else profile)
