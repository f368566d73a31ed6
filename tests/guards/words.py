"""Words: names that say what they do, and prose that is read once."""

import collections
import re

from breach import Breach
from rust_source import PACKAGES, TOP, files

MAX_TEST_NAME = 55

# Names of constants that do not name a quantity.
VAGUE = re.compile(
    r"^(PATIENCE|LONGEST|MOST|ENOUGH|SMALL|SOON|LATER|TURN|ROOM|JOINED|DREGS|SENTENCE|POLITE|FORCED|GENTLE|NOBODY|ALL)$"
    r"|^(MOST|LONGEST|LAST)_|_(PATIENCE|WORDS)$"
)

# Names of types that are only a participle, which does not say what the type is.
PARTICIPLES = re.compile(
    "Told|Asked|Seen|Served|Had|Taken|Held|Given|Gone|Described|Declared|Received|Leaving|Beginning|Speaking"
    "|Through|Answering|Started|Parting|Agreed|Unborn|Coming|Awaited|Attached|Broken|Carried|Leftover|Found"
)

# Words of prose that are not terms of the field.
DIALECT = re.compile(
    r"\b(told|heard|so many|of ours|goes by|go by|through with|lets? lie|come[s]? to|who|whoever|whom|nobody"
    r"|somebody|as many as|what is (?:found|asked|told|said|wanted)|is over|looks? at the clock)\b",
    re.I,
)
SUMMARY = re.compile(r"^(Who|Whom|Whoever|What|That|Is|Has|Are|Does|Do|Can|May|Why|How|If)\b")


def product_files():
    return [file for package in PACKAGES for file in files(package) if not file.is_test]


def mutating_predicates():
    """`is_`, `has_` and `can_` return bool and change nothing (Rust API guidelines)."""
    found = []
    for file in product_files():
        for function in file.functions():
            if not re.match(r"(is|has|can)_", function.name):
                continue
            if function.takes_mut_self or not re.match(r"(Py)?(Result<)?bool\b", function.returns):
                found.append(
                    Breach(f"{file}:{function.line}", function.name, "must return bool and take &self")
                )
    return found


def repeated_type_names():
    """Within a package, no two types share a name, those of its tests included."""
    found = []
    for package in PACKAGES:
        places = collections.defaultdict(list)
        for file in files(package):
            for name, line in file.types():
                places[name].append(f"{file}:{line}")
        found += [
            Breach(place, name, f"defined {len(where)} times")
            for name, where in sorted(places.items())
            if len(where) > 1
            for place in where[1:]
        ]
    return found


def participle_types():
    return [
        Breach(f"{file}:{line}", name)
        for file in product_files()
        for name, line in file.types()
        if PARTICIPLES.fullmatch(name)
    ]


def vague_constants():
    """Constants name a quantity: MAX_*, MIN_*, *_TIMEOUT, *_INTERVAL, *_BYTES."""
    return [
        Breach(f"{file}:{file.line(found.start())}", found.group(1))
        for file in product_files()
        for found in re.finditer(r"\bconst\s+([A-Z][A-Z0-9_]*)\s*:", file.code)
        if VAGUE.search(found.group(1))
    ]


def incomplete_summaries():
    """A doc comment's first sentence is a statement with a subject or a verb, and more than one word."""
    found = []
    for file in product_files():
        for line, kind, text in file.comments():
            if kind == "//":
                continue
            summary = text.split("\n\n")[0].strip()
            if kind == "///" and (
                SUMMARY.match(summary) or summary.endswith("?") or re.fullmatch(r"\w+\.", summary)
            ):
                found.append(Breach(f"{file}:{line}", summary.splitlines()[0][:100]))
    return found


def dialect():
    """Comments use the terms of the field."""
    return [
        Breach(f"{file}:{line}", word.group(), text.replace("\n", " ")[:100])
        for file in product_files()
        for line, _, text in file.comments()
        for word in DIALECT.finditer(text)
    ]


def long_test_names():
    """A test's name, which says subject, condition and outcome, is not too long."""
    names = re.compile(r"\b(?:fn|def)\s+((?:test_)?\w+)\s*\(")
    found = []
    for path in sorted(
        [*(TOP / "tests").rglob("*.py"), *(TOP / "tests").rglob("*.rs"), *(TOP / "src").rglob("*.rs")]
    ):
        if "target" in path.parts:
            continue
        text = path.read_text()
        if path.suffix == ".rs":
            tests = re.finditer(
                r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async\s+)?fn\s+(\w+)", text
            )
        else:
            tests = (match for match in names.finditer(text) if match.group(1).startswith("test_"))
        for match in tests:
            name = match.group(1).removeprefix("test_")
            if len(name) > MAX_TEST_NAME:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Breach(f"{path.relative_to(TOP)}:{line}", name, f"{len(name)} characters"))
    return found


CHECKS = [
    mutating_predicates,
    repeated_type_names,
    participle_types,
    vague_constants,
    incomplete_summaries,
    dialect,
    long_test_names,
]
