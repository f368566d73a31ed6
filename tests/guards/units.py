"""The units: those of instances differ from rgun.service and rgun.socket only where they must."""

import re

from breach import Breach
from rust_source import TOP

# Directives that an instance has of its own, by kind of unit.
OWN = {
    "service": {"ExecStart", "User", "Group", "StateDirectory", "CacheDirectory", "RuntimeDirectory"},
    "socket": {"ListenStream", "RemoveOnStop", "NoDelay"},
}


def directives(name, section):
    """Returns the directives of a section of a unit in systemd/, in order."""
    lines = (TOP / "systemd" / name).read_text().splitlines()
    start = lines.index(f"[{section}]") + 1
    found = []
    for line in lines[start:]:
        if line.startswith("["):
            break
        if re.match(r"\w+=", line):
            found.append(line)
    return found


def unit_templates():
    """The directives that rgun.service and rgun.socket share with their templates are the same, in order."""
    found = []
    for kind, own in OWN.items():
        section = kind.capitalize()
        packaged, template = (
            [line for line in directives(name, section) if line.split("=")[0] not in own]
            for name in (f"rgun.{kind}", f"rgun@.{kind}")
        )
        if packaged != template:
            place = f"systemd/rgun@.{kind}"
            differing = [line for line in packaged if line not in template]
            differing += [line for line in template if line not in packaged]
            found += [Breach(place, line, f"is not in both units of kind {kind}") for line in differing]
            if not differing:
                found.append(Breach(place, "order", f"differs from that of rgun.{kind}"))
    return found


CHECKS = [unit_templates]
