import pytest
from pydantic import ValidationError

from cinelora.base.errors import RecipeError
from cinelora.contracts.flow import Bucket
from cinelora.contracts.geometry import Geometry
from cinelora.preview.options import PreviewOptions, preview_bucket

GEOMETRY = Geometry(fps=8, frames=17, height=64, width=96)


def test_size_is_the_variants_unless_said():
    assert preview_bucket(PreviewOptions(), GEOMETRY) == Bucket(17, 64, 96)
    assert preview_bucket(PreviewOptions(frames=5, size=[32, 48]), GEOMETRY) == Bucket(5, 32, 48)


def test_all_wrong_numbers_are_told_at_once_with_the_nearest():
    with pytest.raises(RecipeError) as told:
        preview_bucket(PreviewOptions(frames=16, size=[60, 48]), GEOMETRY)
    frames, height = told.value.problems
    assert (frames.found, frames.nearest, frames.allowed) == ("16", "13 or 17", "4k + 1, at most 1025")
    assert (height.found, height.nearest) == ("60", "48 or 64")


def test_one_number_is_no_size():
    with pytest.raises(RecipeError, match=r"two numbers"):
        preview_bucket(PreviewOptions(size=[64]), GEOMETRY)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"negative_prompt": "blurry", "guidance": 1.0, "prompts": ["a"]}, "negative_prompt has no effect"),
        ({"every_steps": 5}, "have no effect without prompts"),
        ({"prompts": ["a", "  "]}, "empty one"),
        ({"size": [1, 2, 3]}, "at most 2"),
        ({"guidance": -1.0}, "greater than or equal to 0"),
        ({"num_steps": 0}, "greater than or equal to 1"),
        ({"sampler": "heun"}, "euler"),
        ({"steps": 5}, "Extra inputs"),
    ],
)
def test_bad_values_are_refused(said, told):
    with pytest.raises(ValidationError, match=told):
        PreviewOptions(**said)
