import subprocess
import sys

import pytest
from pydantic import ValidationError

from cinelora.contracts.options import condition
from cinelora.methods.options import MethodOptions
from cinelora.train.options import HeldOutOptions, TrainOptions


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 10, "epochs": 1.0},
        {"steps": 0},
        {"epochs": 0},
        {"lr": 0},
        {"betas": (0.9, 1.0)},
        {"accumulation": 0},
        {"schedule": "stairs"},
        {"precision": "fp8"},
        {"ema_decay": 1.0},
        {"keep_last": 0},
        {"keep_every_steps": -1},
        {"keep_every_epochs": -0.5},
        {"kept": "checkpoint"},
        {"kept": "everything", "keep_every_steps": 5},
        {"stepz": 3},
        {"final_lr_share": 1.5},
        {"on_nonfinite": "ignore"},
        {"clip_norm_start_ratio": 5.0},
        {"clip_norm_start_steps": 100, "clip_norm": 0},
        {"clip_norm_start_steps": 100, "clip_norm_start_ratio": 0.5},
    ],
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        TrainOptions(**wrong)


@pytest.mark.parametrize("section", [TrainOptions, HeldOutOptions, MethodOptions])
def test_every_option_has_help_and_conditions_name_fields(section):
    for name, field in section.model_fields.items():
        assert field.description, name
        if condition(field):
            other, values = condition(field)
            for value in values:
                section(**{other: value, **({"lr": 1.0} if value == "prodigy" else {})})


def test_options_load_no_torch():
    code = "import sys, cinelora.train.options, cinelora.methods.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
