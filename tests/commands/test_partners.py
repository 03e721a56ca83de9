"""Which files belong together by what one of them says, and what is made of a header that says otherwise."""

import json

import pytest

from cinelora.base.errors import WeightsError
from cinelora.commands.partners import partners, read_together
from cinelora.families.registry import FAMILIES

EXPERTS = {"high": {"file": "a.high_noise"}, "low": {"file": "a.low_noise"}}
HEADER = {"experts": json.dumps(EXPERTS), "expert": "low", "joint_variant": "tiny-experts"}


@pytest.fixture
def files(tmp_path):
    """Both files, and one of the same name where nobody may look."""
    for name in ("a.high_noise.comfyui.safetensors", "a.low_noise.comfyui.safetensors"):
        (tmp_path / name).touch()
    return {name: tmp_path / f"a.{name}_noise.comfyui.safetensors" for name in EXPERTS}


def test_files_that_lie_together_belong_together(files):
    assert partners(files["low"], HEADER) == files
    assert partners(files["low"], {}) == {}


def test_a_name_leads_to_no_other_folder(files):
    said = {**EXPERTS, "high": {"file": "../elsewhere/a.high_noise"}}
    assert partners(files["low"], {**HEADER, "experts": json.dumps(said)}) == files


@pytest.mark.parametrize(
    "change",
    [
        {"experts": "{"},
        {"experts": "[]"},
        {"experts": json.dumps({"low": 3})},
        {"expert": "mid"},
        {"expert": None},
        {"joint_variant": None},
    ],
)
def test_a_damaged_header_is_told(files, change):
    header = {name: value for name, value in {**HEADER, **change}.items() if value is not None}
    with pytest.raises(WeightsError, match="of its experts cannot be read") as error:
        partners(files["low"], header)
    assert str(files["low"]) in str(error.value)
    assert "--model" in str(error.value)


@pytest.mark.parametrize(("variant", "known"), [("tiny-experts", "high, low"), ("tiny", "none")])
def test_experts_that_the_model_does_not_have_are_told(files, variant, known):
    with pytest.raises(WeightsError, match="has no such expert") as error:
        read_together({"mid": files["low"]}, FAMILIES["wan"].variants[variant], [])
    (problem,) = error.value.problems
    assert (problem.found, problem.allowed) == ("mid", known)
