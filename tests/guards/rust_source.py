"""Reads Rust sources as the guards need them: code, functions, types and imports.

This is a lexer and a few patterns, not a compiler. It knows comments, strings, `#[cfg(test)]` modules, `use`
trees and paths that begin with `crate`, `self` or `super`; it does not expand macros.
"""

import dataclasses
import functools
import pathlib
import re

TOP = pathlib.Path(__file__).resolve().parent.parent.parent

# Packages, by the directory of their lib.rs.
PACKAGES = ["src/channel", "src/daemon", "src/worker"]

# Directories and files of a package that hold its tests.
TEST_PARTS = {"tests", "testing", "simulation", "models"}

TOKEN = re.compile(
    r"""
    (?P<comment>//[^\n]*|/\*.*?\*/)
  | (?P<raw>b?r(?P<hashes>\#*)".*?"(?P=hashes))
  | (?P<string>b?"(?:\\.|[^"\\])*")
  | (?P<char>b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^'\\\n])')
    """,
    re.VERBOSE | re.DOTALL,
)


def without_text(source):
    """The source with comments, strings and characters blanked; offsets and lines stay."""

    def blank(found):
        return re.sub(r"[^\n]", " ", found.group())

    return TOKEN.sub(blank, source)


def closing(code, start, pair="{}"):
    """The offset of the bracket that closes the one at `start`; the end of the code if none does."""
    depth = 0
    for offset in range(start, len(code)):
        if code[offset] == pair[0]:
            depth += 1
        elif code[offset] == pair[1]:
            depth -= 1
            if depth == 0:
                return offset
    return len(code)


def without_tests(code):
    """The code without its `#[cfg(test)]` modules and items."""
    while found := re.search(r"#\[cfg\(test\)\]", code):
        brace, semicolon = code.find("{", found.end()), code.find(";", found.end())
        is_item = semicolon != -1 and (brace == -1 or semicolon < brace)
        end = semicolon if is_item else closing(code, brace)
        code = code[: found.start()] + re.sub(r"[^\n]", " ", code[found.start() : end + 1]) + code[end + 1 :]
    return code


@dataclasses.dataclass(frozen=True)
class Function:
    """A function with a body. `lines` counts from its `fn` to its last brace, `parameters` without `self`."""

    name: str
    line: int
    lines: int
    parameters: int
    takes_mut_self: bool
    returns: str


@dataclasses.dataclass(frozen=True)
class Struct:
    """A struct with named fields."""

    name: str
    line: int
    fields: int


class File:
    """One source file: `text` as it is, `code` without comments, strings and tests."""

    def __init__(self, path, package):
        self.path = path
        self.package = package
        self.text = path.read_text()
        self.masked = without_text(self.text)
        self.code = without_tests(self.masked)

    def __str__(self):
        return str(self.path.relative_to(TOP))

    @property
    def parts(self):
        """The module path: ("dispatch", "queue"); () for lib.rs, ("dispatch",) for dispatch/mod.rs."""
        parts = self.path.relative_to(TOP / self.package).with_suffix("").parts
        return () if parts in (("lib",), ("main",)) else parts[:-1] if parts[-1] == "mod" else parts

    @property
    def is_test(self):
        return bool(TEST_PARTS & set(self.parts))

    def line(self, offset):
        return self.text.count("\n", 0, offset) + 1

    def functions(self):
        for found in re.finditer(r"\bfn\s+(\w+)", self.code):
            opening = parameter_list(self.code, found.end())
            end = closing(self.code, opening, "()")
            parameters = split_list(self.code[opening + 1 : end])
            body = re.compile(r"[{;]").search(self.code, end)
            if body is None or body.group() == ";":
                continue
            last = closing(self.code, body.start())
            returns = self.code[end + 1 : body.start()].split("where")[0].replace("->", "").strip()
            own = [p for p in parameters if re.fullmatch(r"(&\s*('\w+\s+)?)?(mut\s+)?self(\s*:.*)?", p, re.S)]
            yield Function(
                found.group(1),
                self.line(found.start()),
                self.code.count("\n", found.start(), last) + 1,
                len(parameters) - len(own),
                any("mut" in p and "&" in p for p in own),
                returns,
            )

    def structs(self):
        for found in re.finditer(r"\bstruct\s+(\w+)[^;{(]*\{", self.code):
            body = self.code[found.end() : closing(self.code, found.end() - 1)]
            fields = [field for field in split_list(re.sub(r"#\[[^\]]*\]", "", body)) if field]
            yield Struct(found.group(1), self.line(found.start()), len(fields))

    def types(self):
        """The types that the file defines, those of its tests included: name and line."""
        for found in re.finditer(r"\b(struct|enum|trait|union|type)\s+([A-Z]\w*)", self.masked):
            if found.group(1) == "type" and self.depth(found.start()) > 0:
                continue  # an associated type
            yield found.group(2), self.line(found.start())

    def depth(self, offset):
        return self.masked.count("{", 0, offset) - self.masked.count("}", 0, offset)

    def comments(self):
        """Each block of whole-line comments: line, kind (`///`, `//!` or `//`), and its text."""
        block, kind, first = [], None, 0
        for number, line in enumerate([*self.text.splitlines(), ""], 1):
            found = re.match(r"\s*(///|//!|//)\s?(.*)", line)
            if found and found.group(1) == kind:
                block.append(found.group(2))
                continue
            if block:
                yield first, kind, "\n".join(block)
            block, kind, first = ([found.group(2)], found.group(1), number) if found else ([], None, 0)


def parameter_list(code, start):
    """The offset of the parenthesis that opens a function's parameters, past its generics."""
    depth = 0
    for offset in range(start, len(code)):
        if code[offset] == "<":
            depth += 1
        elif code[offset] == ">" and code[offset - 1] not in "-=":
            depth -= 1
        elif code[offset] == "(" and depth == 0:
            return offset
    return len(code)


def split_list(text):
    """The elements of a comma-separated list. A comma within brackets separates nothing."""
    elements, depth, start = [], 0, 0
    for offset, character in enumerate(text):
        if character in "([{<":
            depth += 1
        elif character in ")]}" or (character == ">" and text[offset - 1] not in "-="):
            depth -= 1
        elif character == "," and depth == 0:
            elements.append(text[start:offset].strip())
            start = offset + 1
    return [element for element in [*elements, text[start:].strip()] if element]


@functools.cache
def files(package):
    """All source files of a package, tests included."""
    return [File(path, package) for path in sorted((TOP / package).rglob("*.rs"))]


# ---------------------------------------------------------------- imports


def use_paths(tree, prefix=()):
    """The paths of a `use` tree: `a::{b, c::d as e}` gives (a, b) and (a, c, d)."""
    tree = tree.strip()
    opening = tree.find("{")
    if opening == -1:
        name = re.sub(r"\s+as\s+\w+$", "", tree)
        yield (*prefix, *[part.strip() for part in name.split("::") if part.strip()])
        return
    head = [part.strip() for part in tree[:opening].split("::") if part.strip()]
    for element in split_list(tree[opening + 1 : closing(tree, opening)]):
        yield from use_paths(element, (*prefix, *head))


class Imports:
    """The imports between the files of a package. A re-export resolves to the file that defines the item."""

    def __init__(self, package):
        top = TOP / package
        root = next(path for path in (top / "lib.rs", top / "main.rs") if path.exists())
        self.files = {
            file.parts: file for file in files(package) if file.path.name != "main.rs" or file.path == root
        }
        self.reexports = {parts: self.reexports_of(file) for parts, file in self.files.items()}

    def reexports_of(self, file):
        """Maps each name that the file imports, and may re-export, to the absolute path of its definition."""
        found = {}
        for use in re.finditer(r"\buse\s+([^;]+);", file.code):
            for path in use_paths(use.group(1)):
                absolute = self.absolute(file, path)
                if absolute:
                    found[absolute[-1]] = absolute
        return found

    def absolute(self, file, path):
        """The path from the crate's root; None for a path into another crate."""
        base = file.parts
        if path[0] == "crate":
            return path[1:]
        if path[0] == "self":
            return (*base, *path[1:])
        steps = 0
        while steps < len(path) and path[steps] == "super":
            steps += 1
        if steps:
            return (*base[: len(base) - steps], *path[steps:])
        # A module declared here can be named without `self`.
        return (*base, *path) if (*base, path[0]) in self.files else None

    def resolve(self, path, limit=8):
        """The module path of the file that defines the item `path`."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.files:
                break
        owner, rest = path[:length], path[length:]
        if rest and limit and (target := self.reexports[owner].get(rest[0])) and target != path:
            return self.resolve((*target, *rest[1:]), limit - 1)
        return owner

    def of(self, file):
        """The module paths of the files that `file` uses."""
        used = set()
        code = file.code
        rest = re.sub(r"\buse\s+[^;]+;", lambda use: re.sub(r"[^\n]", " ", use.group()), code)
        for use in re.finditer(r"(\bpub(?:\([^)]*\))?\s+)?\buse\s+([^;]+);", code):
            for path in use_paths(use.group(2)):
                absolute = self.absolute(file, path)
                if absolute is None:
                    continue  # an item of another crate
                is_below = len(absolute) > len(file.parts) and absolute[: len(file.parts)] == file.parts
                if use.group(1) and is_below and not re.search(rf"\b{absolute[-1]}\b", rest):
                    continue  # a re-export, which the module itself does not use
                used.add(self.resolve(absolute))
        # A path can begin with a child module. `pub(in crate::x)` limits the visibility of an item
        # and uses nothing.
        for found in re.finditer(r"(?<!\bin )(?<![\w:])(\w+(?:::\w+)+)", rest):
            absolute = self.absolute(file, tuple(found.group(1).split("::")))
            if absolute is not None:
                used.add(self.resolve(absolute))
        return used - {file.parts}

    def graph(self):
        graph = {}
        for parts, file in self.files.items():
            if not file.is_test:
                graph[parts] = {used for used in self.of(file) if not self.files[used].is_test}
        return graph


def circles(graph):
    """The strongly connected components of more than one node (Tarjan's algorithm), largest first."""
    index, low, stack, on_stack, found = {}, {}, [], set(), []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in on_stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = []
            while not component or component[-1] != node:
                component.append(stack.pop())
                on_stack.discard(component[-1])
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found, key=len, reverse=True)
