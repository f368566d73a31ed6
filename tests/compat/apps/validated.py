"""The cases of tests/apps/hello under wsgiref.validate, which checks the server."""

import sys
from pathlib import Path
from wsgiref.validate import validator

sys.path.append(str(Path(__file__).resolve().parents[2] / "apps" / "hello"))

import cases

application = validator(cases.application)
