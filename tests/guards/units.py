"""The units: those of instances differ from rgun.service and rgun.socket only where they must."""

import re

from breach import Breach
from rust_source import TOP

# Directives that an instance has of its own, by name of its unit.
OWN = {
    "rgun@.service": {"ExecStart", "User", "Group", "StateDirectory", "CacheDirectory", "RuntimeDirectory"},
    "rgun@.socket": {"ListenStream", "RemoveOnStop", "NoDelay"},
    "rgun-metrics@.socket": {"ListenStream", "RemoveOnStop", "Service"},
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
    """The directives that units share with their templates are the same, in order."""
    found = []
    for template, own in OWN.items():
        single = template.replace("@", "")
        section = single.rpartition(".")[2].capitalize()
        of_single, of_template = (
            [line for line in directives(name, section) if line.split("=")[0] not in own]
            for name in (single, template)
        )
        if of_single != of_template:
            place = f"systemd/{template}"
            differing = [line for line in of_single if line not in of_template]
            differing += [line for line in of_template if line not in of_single]
            found += [
                Breach(place, line, f"is not in both units, {single} and {template}") for line in differing
            ]
            if not differing:
                found.append(Breach(place, "order", f"differs from that of {single}"))
    return found


CHECKS = [unit_templates]
