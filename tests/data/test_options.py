import subprocess
import sys

import pytest
from pydantic import ValidationError

from cinelora.contracts.options import condition
from cinelora.data.options import DataOptions, SourceOptions


def test_the_least_recipe():
    options = DataOptions(source=[{"path": "clips"}])
    assert (options.source[0].reader, options.source[0].weight, options.source[0].held_out) == ("auto", 0.0, True)
    assert (options.frames, options.size, options.fps) == ([], [], "family")
    assert (options.clip, options.crop, options.short, options.on_bad) == ("head", "centre", "fit", "stop")
    assert (options.held_out, options.cache, options.cache_dir) == (0.05, "on", ".cinelora/cache")


@pytest.mark.parametrize(
    "values",
    [
        {"source": []},
        {"frames": [0]},
        {"frames": [17.5]},
        {"size": [32, 32, 32]},
        {"size": [32, -32]},
        {"fps": 0},
        {"fps": "native"},
        {"clip": "tail"},
        {"held_out": 0.6},
        {"num_variants": 0},
        {"crops": "centre"},
    ],
)
def test_wrong_values_are_refused(values):
    with pytest.raises(ValidationError):
        DataOptions(**{"source": [{"path": "clips"}], **values})


@pytest.mark.parametrize("values", [{}, {"path": ""}, {"path": "a", "weight": -1}, {"path": "a", "kind": "folder"}])
def test_wrong_sources_are_refused(values):
    with pytest.raises(ValidationError):
        SourceOptions(**values)


def test_rules_of_a_source_are_those_of_data_but_for_what_they_say():
    shared = {"frames": [9], "buckets": "videox", "videox": {"random_hw_adapt": True, "image_sample_size": 256}}
    own = {"path": "b", "rules": {"crop": "random", "videox": {"video_sample_size": 128}}}
    first, second = DataOptions(**shared, source=[{"path": "a"}, own]).source
    assert first.rules is None
    assert (second.rules.frames, second.rules.crop, second.rules.buckets) == ([9], "random", "videox")
    videox = second.rules.videox
    assert (videox.random_hw_adapt, videox.image_sample_size, videox.video_sample_size) == (True, 256, 128)


@pytest.mark.parametrize("section", [DataOptions, SourceOptions])
def test_every_option_says_what_it_does(section):
    for name, field in section.model_fields.items():
        assert field.description, name
        if condition(field):
            assert condition(field)[0] in section.model_fields, name


def test_planning_needs_no_torch():
    """A refused recipe answers at once."""
    code = "import sys, cinelora.data.plan, cinelora.data.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
