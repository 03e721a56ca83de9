"""Every golden case under tests/golden and ../shared/golden (or --golden DIR), chosen by its kind; ids FAMILY/CASE.

Cases of the data room (frames, pixels, buckets, masks) run for every family; the others for the families that the
registry has.
"""

import golden_cogvideox
import golden_dynamicrafter_lora
import golden_dynamicrafter_nets
import golden_dynamicrafter_process
import golden_easyanimate_dit
import golden_easyanimate_train
import golden_easyanimate_vae
import golden_framer_nets
import golden_framer_tracks
import golden_wan
import pytest
from golden_case import Case, NotBuiltError, find_cases

from cinelora.families.registry import FAMILIES
from data import golden_frames, golden_masks, golden_videox

EASYANIMATE = {**golden_easyanimate_dit.CHECKS, **golden_easyanimate_vae.CHECKS, **golden_easyanimate_train.CHECKS}
DYNAMICRAFTER = {
    **golden_dynamicrafter_nets.CHECKS,
    **golden_dynamicrafter_process.CHECKS,
    **golden_dynamicrafter_lora.CHECKS,
}
CHECKS = {
    "wan": golden_wan.CHECKS,
    "cogvideox": golden_cogvideox.CHECKS,
    "easyanimate": EASYANIMATE,
    "dynamicrafter": DYNAMICRAFTER,
    "framer": {**golden_framer_nets.CHECKS, **golden_framer_tracks.CHECKS},
}
DATA_CHECKS = {**golden_frames.CHECKS, **golden_masks.CHECKS, **golden_videox.CHECKS}
EXPECTED_FAILURES = {"wan": golden_wan.EXPECTED_FAILURES, "cogvideox": golden_cogvideox.EXPECTED_FAILURES}


def parameter(case: Case):
    listed = EXPECTED_FAILURES.get(case.family, ())
    marks = []
    if any(kind == case.kind and applies(case.config) for kind, applies in listed):
        marks.append(pytest.mark.xfail(strict=True, raises=NotBuiltError, reason=f"{case.kind}: its issue is open"))
    return pytest.param(case, id=case.name, marks=marks)


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = find_cases(metafunc.config.getoption("--golden"))
        known = [case for case in cases if case.family in FAMILIES or case.kind in DATA_CHECKS]
        metafunc.parametrize("case", [parameter(case) for case in known])


def test_golden(case, tmp_path):
    check = DATA_CHECKS.get(case.kind) or CHECKS.get(case.family, {}).get(case.kind)
    if check is None:
        pytest.fail(f"{case.name}: no check for kind {case.kind!r} of family {case.family}")
    check(case, tmp_path)
