"""Structure: no import circles, the layers of lib.rs, one place for status codes, no unused dependency."""

import ast
import re

from breach import Breach
from rust_source import PACKAGES, TOP, Imports, circles, files
from toml import tomllib


def import_circles():
    """Files that import each other, directly or through others: each file of a circle is a breach."""
    found = []
    for package in [*PACKAGES, "tests/it"]:
        imports = Imports(package)
        for circle in circles(imports.graph()):
            found.append([str(imports.files[parts]) for parts in circle])
    found += [[str(path.relative_to(TOP)) for path in circle] for circle in circles(python_imports())]
    return [Breach(name, name, f"in a circle of {len(circle)} files") for circle in found for name in circle]


def python_imports():
    """Returns, for each Python file, the files that it imports (`import x`, `from package import x`)."""
    paths = [
        path for top in ("src", "tests") for path in (TOP / top).rglob("*.py") if "target" not in path.parts
    ]
    graph = {path: set() for path in paths}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = [node.module] if node.module else []
                names = package + [".".join([*package, alias.name]) for alias in node.names]
            else:
                continue
            for name in names:
                steps = name.replace(".", "/")
                for folder in (path.parent, path.parent.parent, TOP / "tests"):
                    module = folder / f"{steps}.py"
                    if module in graph:
                        graph[path].add(module)
                        break
    return {path: used - {path} for path, used in graph.items()}


def layer_table():
    """Returns the table of src/daemon/lib.rs: for each module, what it may use and what it must not use.

    A row reads `| [`net`] | config, systemd | hyper, SystemTime |`; "-" means none, "everything" means all.
    """
    text = (TOP / "src/daemon/lib.rs").read_text()
    rows = {}
    for row in re.finditer(r"^//! \| \[`(\w+)`\] \| ([^|]*) \| ([^|]*) \|$", text, re.M):
        allowed, forbidden = (
            [] if cell.strip() == "-" else re.split(r",\s*", cell.strip().replace("`", ""))
            for cell in row.groups()[1:]
        )
        rows[row.group(1)] = (allowed, forbidden)
    return rows


def layers():
    """Each module of the daemon, at any depth, uses what src/daemon/lib.rs lists for it, and nothing else."""
    rows = layer_table()
    imports = Imports("src/daemon")
    modules = {parts[0] for parts in imports.files if parts and not {"tests", "testing"} & set(parts)}
    found = [
        Breach("src/daemon/lib.rs", module, "is not in the table") for module in sorted(modules - set(rows))
    ]
    unused = {module: set(allowed) - {"everything"} for module, (allowed, _) in rows.items()}
    for parts, file in imports.files.items():
        if not parts or file.is_test or parts[0] not in rows:
            continue
        allowed, forbidden = rows[parts[0]]
        used = {other[0] for other in imports.of(file) if other} - {parts[0]}
        unused[parts[0]] -= used
        if allowed != ["everything"]:
            found += [Breach(str(file), f"{parts[0]} uses {name}") for name in sorted(used - set(allowed))]
        for name in forbidden:
            pattern = rf"(?<![\w:]){re.escape(name)}" + ("" if name.endswith("(") else r"(?=::|\b(?!\w*::<))")
            if "::" not in name and not name.endswith("(") and name[0].islower():
                pattern = rf"(?<![\w:]){re.escape(name)}::"
            if re.search(pattern, file.code):
                found.append(Breach(str(file), f"{parts[0]} uses {name}"))
    found += [
        Breach("src/daemon/lib.rs", f"{module} does not use {name}")
        for module, names in unused.items()
        for name in sorted(names)
    ]
    return found


def status_codes():
    """Of the modules that serve requests, http/fault.rs and files/response.rs alone name status codes."""
    return [
        Breach(f"{file}:{file.line(found.start())}", f"{found.group(1)} in {file.path.name}")
        for file in files("src/daemon")
        if file.parts[:1] in {("http",), ("net",), ("websocket",), ("edge",), ("dispatch",), ("files",)}
        and file.parts not in {("http", "fault"), ("files", "response")}
        and not file.is_test
        for found in re.finditer(r"\bStatusCode::([A-Z]\w*|from_u16)\b", file.code)
    ]


def unused_dependencies():
    """Each package uses its dependencies, and each dependency of the workspace belongs to a package."""
    workspace = tomllib.loads((TOP / "Cargo.toml").read_text())["workspace"]
    unused, declared = [], set()
    for package in PACKAGES:
        manifest = tomllib.loads((TOP / package / "Cargo.toml").read_text())
        targets = [manifest, *manifest.get("target", {}).values()]
        names = {
            name
            for target in targets
            for kind in ("dependencies", "dev-dependencies")
            for name in target.get(kind, {})
        }
        declared |= names
        code = "\n".join(file.masked for file in files(package))
        code += "\n".join(path.read_text() for path in (TOP / "tests").rglob("*.rs"))
        for name in sorted(names):
            if not re.search(rf"\b{name.replace('-', '_')}(::|;|\s*\{{|!)|#\[{name}\b", code):
                unused.append(Breach(f"{package}/Cargo.toml", name, "is used nowhere"))
    for name in sorted(set(workspace["dependencies"]) - declared):
        unused.append(Breach("Cargo.toml", name, "is not a dependency of any package"))
    return unused


CHECKS = [import_circles, layers, status_codes, unused_dependencies]
