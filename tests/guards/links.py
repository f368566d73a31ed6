"""Documents: the files, definitions and journal fields that they name exist."""

import re

from breach import Breach
from rust_source import TOP

LINK = re.compile(r"\[(`?)([^\]]*?)`?\]\(([^)#\s]+)(#[^)]*)?\)")
DEFINITION = r"\b(fn|def|enum|struct|trait|class|const|mod)\s+{}\b"
# A path in code type, perhaps at the start of a command: `tests/guards/run --list`.
CODE_PATH = re.compile(r"`((?:src|tests|packaging|systemd|\.github|\.cargo)/[\w./-]*)")

# A field that the log writes, in the arguments of an event.
FIELD = re.compile(r"\b(?:rgun\.(\w+)\s*=|field\(\"RGUN_(\w+)\")")
# Fields of entries at level debug, for people who read the source.
DEBUG_FIELDS = {"RGUN_REASON", "RGUN_CONTROLLER"}

MAX_WALK_FILES = 25


def documents():
    paths = [TOP / "README.md", TOP / "CHANGELOG.md"]
    for place in ("src", "tests", "packaging", ".github"):
        paths += (TOP / place).rglob("*.md")
    return sorted(path for path in paths if "target" not in path.parts)


def has_definition(source, label):
    """Returns whether the source defines the name; True for a label that is not a single name."""
    return not re.fullmatch(r"\w+", label) or bool(re.search(DEFINITION.format(label), source.read_text()))


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


def doc_paths():
    """Paths of the repository that a document names in code type exist."""
    found = []
    for path in documents():
        text = path.read_text()
        for match in CODE_PATH.finditer(text):
            named = match.group(1).rstrip(".")
            if not (TOP / named).exists():
                line = text.count("\n", 0, match.start()) + 1
                found.append(Breach(f"{path.relative_to(TOP)}:{line}", named, "does not exist"))
    return found


def journal_fields():
    """The table of packaging/doc/journal.md names the fields that the daemon writes, and no others."""
    guide = TOP / "packaging/doc/journal.md"
    rows = re.findall(r"^\| (`RGUN_.*?) \|", guide.read_text(), re.M)
    described = {name for row in rows for name in re.findall(r"`(RGUN_\w+)`", row)}
    written = set()
    for source in (TOP / "src/daemon").rglob("*.rs"):
        product = source.read_text().split("#[cfg(test)]")[0]
        written |= {f"RGUN_{(event or raw).upper()}" for event, raw in FIELD.findall(product)}
    # The journal has RGUN_REQUEST_IDS as one RGUN_REQUEST_ID for each id.
    written -= DEBUG_FIELDS | {"RGUN_REQUEST_IDS"}
    place = str(guide.relative_to(TOP))
    return [Breach(place, name, "is not described") for name in sorted(written - described)] + [
        Breach(place, name, "is not written by the daemon") for name in sorted(described - written)
    ]


def short_walk():
    """Walk 1 of src/README.md passes at most 25 files, and says how many."""
    guide = TOP / "src/README.md"
    walk = guide.read_text().partition("## Walk 1")[2].partition("\n## ")[0]
    n_files = len({link.group(3) for link in LINK.finditer(walk) if link.group(1)})
    stated = re.search(r"(\d+) files", walk)
    if stated and n_files == int(stated[1]) <= MAX_WALK_FILES:
        return []
    return [Breach(str(guide.relative_to(TOP)), "Walk 1", f"passes {n_files} files")]


CHECKS = [doc_links, doc_paths, journal_fields, short_walk]
