"""Links: what a document of the repository links to is there, and is what its text says."""

import re

from breach import Breach
from rust_source import TOP

LINK = re.compile(r"\[(`?)([^\]]*?)`?\]\(([^)#\s]+)(#[^)]*)?\)")
DEFINITION = r"\b(fn|def|enum|struct|trait|class|const|mod)\s+{}\b"


def documents():
    paths = [TOP / "README.md", TOP / "CHANGELOG.md"]
    for place in ("src", "tests", "packaging", ".github"):
        paths += (TOP / place).rglob("*.md")
    return sorted(path for path in paths if "target" not in path.parts)


def has_definition(source, label):
    """Whether the source defines the name; a label that is no single name is not looked for."""
    return not re.fullmatch(r"\w+", label) or re.search(DEFINITION.format(label), source.read_text())


def doc_links():
    """Linked files exist; a name in code type that links to a source file is defined in it."""
    found = []
    for path in documents():
        text = path.read_text()
        for link in LINK.finditer(text):
            is_code, label, target = link.group(1, 2, 3)
            if re.match(r"[a-z]+:", target):
                continue
            place = f"{path.relative_to(TOP)}:{text.count(chr(10), 0, link.start()) + 1}"
            linked = path.parent / target
            if not linked.exists():
                found.append(Breach(place, target, "does not exist"))
            elif is_code and linked.suffix in (".rs", ".py") and not has_definition(linked, label):
                found.append(Breach(place, label, f"is not defined in {target}"))
    return found


CHECKS = [doc_links]
