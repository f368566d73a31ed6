"""Runs the rgun that pip installed for this interpreter, with the same arguments."""

import os
import pathlib
import sys
import sysconfig

PACKAGE = pathlib.Path(__file__).resolve().parent


def find_program():
    """Returns the path of the program; exits with status 69 (EX_UNAVAILABLE) if it is missing."""
    scripts = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", f"{os.name}_user")]
    # This package is in PREFIX/lib/python3.N/site-packages: after `pip install --prefix`, and if a virtual
    # environment sees the packages of its base.
    scripts.append(PACKAGE.parents[3] / "bin")
    for directory in scripts:
        program = pathlib.Path(directory, "rgun")
        if os.access(program, os.X_OK) and program.is_file():
            return program
    searched = ", ".join(dict.fromkeys(map(str, scripts)))
    print(f"rgun: the program is in none of {searched}; reinstall the package rgun", file=sys.stderr)
    raise SystemExit(69)


def environment():
    """Returns the variables with which rgun finds this interpreter: those that an activation sets."""
    variables = dict(os.environ)
    if sys.prefix != sys.base_prefix:
        variables["VIRTUAL_ENV"] = sys.prefix
    beside = os.path.dirname(sys.executable)
    variables["PATH"] = os.pathsep.join(filter(None, [beside, variables.get("PATH")]))
    return variables


if __name__ == "__main__":
    path = find_program()
    os.execve(path, [str(path), *sys.argv[1:]], environment())
