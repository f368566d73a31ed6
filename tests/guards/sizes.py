"""Sizes: functions, files, structs and parameter lists that are too long to read at once."""

import ast

from breach import Breach
from rust_source import PACKAGES, TOP, files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
MAX_FIELDS = 20
MAX_PARAMETERS = 6


def product_files():
    return [file for package in PACKAGES for file in files(package) if not file.is_test]


def python_files():
    """Returns the paths of the Python files: modules, and programs without an extension."""
    paths = [path for folder in ("src", "tests", "packaging") for path in (TOP / folder).rglob("*")]
    paths = [path for path in paths if path.is_file() and "target" not in path.parts]
    return [path for path in paths if path.suffix == ".py" or (not path.suffix and is_python(path))]


def is_python(path):
    with path.open("rb") as file:
        first = file.readline()
    return first.startswith(b"#!") and b"python" in first


def python_functions():
    """Yields the path and the syntax tree of each function in Python."""
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path.relative_to(TOP), node


def long_functions():
    found = [
        Breach(f"{file}:{function.line}", function.name, f"{function.lines} lines")
        for file in product_files()
        for function in file.functions()
        if function.lines > MAX_FUNCTION_LINES
    ]
    for path, function in python_functions():
        lines = function.end_lineno - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            found.append(Breach(f"{path}:{function.lineno}", function.name, f"{lines} lines"))
    return found


def long_files():
    paths = [file.path for package in PACKAGES for file in files(package)]
    paths += (TOP / "tests").rglob("*.rs")
    paths += python_files()
    found = []
    for path in sorted(path for path in paths if "target" not in path.parts):
        lines = path.read_text().count("\n")
        if lines > MAX_FILE_LINES:
            name = str(path.relative_to(TOP))
            found.append(Breach(name, name, f"{lines} lines"))
    return found


def wide_structs():
    return [
        Breach(f"{file}:{struct.line}", struct.name, f"{struct.fields} fields")
        for file in product_files()
        for struct in file.structs()
        if struct.fields > MAX_FIELDS
    ]


def many_parameters():
    found = [
        Breach(f"{file}:{function.line}", function.name, f"{function.parameters} parameters")
        for file in product_files()
        for function in file.functions()
        if function.parameters > MAX_PARAMETERS
    ]
    for path, function in python_functions():
        # Without keyword-only parameters, because each call names them.
        names = [each.arg for each in function.args.posonlyargs + function.args.args]
        n_parameters = len(names) - (names[:1] in (["self"], ["cls"]))
        if n_parameters > MAX_PARAMETERS:
            found.append(Breach(f"{path}:{function.lineno}", function.name, f"{n_parameters} parameters"))
    return found


CHECKS = [long_functions, long_files, wide_structs, many_parameters]
