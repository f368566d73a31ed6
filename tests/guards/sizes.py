"""Sizes: functions, files, structs and parameter lists that are too long to read at once."""

from breach import Breach
from rust_source import PACKAGES, TOP, files

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 500
MAX_FIELDS = 20
MAX_PARAMETERS = 6


def product_files():
    return [file for package in PACKAGES for file in files(package) if not file.is_test]


def long_functions():
    return [
        Breach(f"{file}:{function.line}", function.name, f"{function.lines} lines")
        for file in product_files()
        for function in file.functions()
        if function.lines > MAX_FUNCTION_LINES
    ]


def long_files():
    paths = [file.path for package in PACKAGES for file in files(package)]
    paths += [path for ending in ("*.rs", "*.py") for path in (TOP / "tests").rglob(ending)]
    paths += (TOP / "src").rglob("*.py")
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
    return [
        Breach(f"{file}:{function.line}", function.name, f"{function.parameters} parameters")
        for file in product_files()
        for function in file.functions()
        if function.parameters > MAX_PARAMETERS
    ]


CHECKS = [long_functions, long_files, wide_structs, many_parameters]
