"""The conforming cases under wsgiref.validate, which checks the server."""

import sys

import pytest
from support.paths import COMPAT_APPS, HELLO

sys.path.append(str(HELLO))
import cases

# Cases that end the process, never end or raise, and those that the validator's wrappers refuse.
LEFT_OUT = {"exit", "exit/middle", "segfault", "kill", "iterate/endless", "exc-info/after", "write/raise"}
CONFORMING = sorted(
    name
    for name, function in cases.CASES.items()
    if function.conforming
    and name not in LEFT_OUT
    and not name.startswith(("raise", "file", "environ/writable", "memory", "spin", "hold-gil"))
)


@pytest.fixture(scope="module")
def validated(start_shared):
    return start_shared("validated", COMPAT_APPS).wait_ready()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("case", CONFORMING)
def test_conforming_case_passes_the_validator(validated, case, method):
    body = b"" if method in ("GET", "DELETE", "OPTIONS") else b"some\nlines\nof body"
    response = validated.request(method, f"/{case}", body=body)
    assert response.complete, response
    # exc-info/before is a 500 on purpose.
    assert response.status != 500 or case in ("exc-info/before", "status/500"), validated.log()[-2000:]


@pytest.mark.parametrize(
    "case", [name for name in CONFORMING if name in ("head", "iterate", "iterate/list", "echo")]
)
def test_conforming_case_passes_the_validator_for_head(validated, case):
    assert validated.request("HEAD", f"/{case}").status == 200, validated.log()[-2000:]


def test_nonconforming_case_is_caught_by_the_validator(validated):
    """Shows that the validator is active."""
    assert validated.get("/result/not-bytes").status == 500
    validated.wait_for_log("AssertionError")
