"""Every golden case under tests/golden and ../shared/golden (or --golden DIR), chosen by its kind; ids FAMILY/CASE."""

import golden_wan
import pytest
from golden_case import Case, NotBuiltError, find_cases

from cinelora.families.registry import FAMILIES

CHECKS = {"wan": golden_wan.CHECKS}
EXPECTED_FAILURES = {"wan": golden_wan.EXPECTED_FAILURES}


def parameter(case: Case):
    listed = EXPECTED_FAILURES.get(case.family, ())
    marks = []
    if any(kind == case.kind and applies(case.config) for kind, applies in listed):
        marks.append(pytest.mark.xfail(strict=True, raises=NotBuiltError, reason=f"{case.kind}: its issue is open"))
    return pytest.param(case, id=case.name, marks=marks)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = find_cases(metafunc.config.getoption("--golden"))
        metafunc.parametrize("case", [parameter(case) for case in cases if case.family in FAMILIES])


def test_golden(case, tmp_path):
    check = CHECKS.get(case.family, {}).get(case.kind)
    if check is None:
        pytest.fail(f"{case.name}: no check for kind {case.kind!r} of family {case.family}")
    check(case, tmp_path)
