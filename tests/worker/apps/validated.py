"""The cases of tests/apps/hello that conform to PEP 3333, under wsgiref.validate: it asserts on what a server does wrong."""

import sys
from pathlib import Path
from wsgiref.validate import validator

sys.path.append(str(Path(__file__).resolve().parents[2] / "apps" / "hello"))

import cases  # noqa: E402 (the path has to be there first)

application = validator(cases.application)
