"""What a base's scheduler config says of its noise, and where a recipe contradicts it."""

import json

import pytest

from cinelora.base.errors import WeightsError
from cinelora.nets.schedule import contradictions, stated_noise
from cinelora.nets.weights import Base

VELOCITY = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
NOISE = {
    "kind": "ddpm",
    "betas": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction": "v",
    "zero_terminal_snr": True,
}


def base_with(folder, config) -> Base:
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        config if isinstance(config, str) else json.dumps(config)
    )
    return Base(str(folder))


def test_discrete_schedulers_state_their_table_and_what_is_predicted(tmp_path):
    stated = stated_noise(base_with(tmp_path, VELOCITY))
    assert stated == {name: value for name, value in NOISE.items() if name != "kind"}
    assert contradictions(stated, NOISE) == {}
    found = contradictions(stated, {**NOISE, "beta_end": 0.03, "prediction": "eps"})
    assert found == {"beta_end": (0.012, 0.03), "prediction": ("v", "eps")}


def test_learned_variances_go_with_predicted_noise(tmp_path):
    config = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "epsilon"}
    stated = stated_noise(base_with(tmp_path, config))
    assert contradictions(stated, {**NOISE, "kind": "sigma", "prediction": "v"}) == {}
    assert contradictions(stated, NOISE) == {"prediction": ("eps", "v")}
    assert contradictions({"prediction": "v"}, {**NOISE, "kind": "sigma"}) == {"prediction": ("v", "eps")}


def test_flows_and_tables_are_told_apart(tmp_path):
    flow = stated_noise(base_with(tmp_path, {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}))
    assert flow == {"kind": "flow"}
    assert contradictions(flow, {"kind": "flow"}) == {}
    assert contradictions(flow, NOISE) == {"kind": ("flow", "ddpm")}
    assert contradictions({"prediction": "v"}, {"kind": "flow"}) == {"kind": ("ddpm", "flow")}


def test_what_is_not_stated_contradicts_nothing(tmp_path):
    assert stated_noise(Base("random")) == {}
    assert stated_noise(Base(str(tmp_path))) == {}
    assert contradictions({}, NOISE) == contradictions({}, {"kind": "flow"}) == {}
    other = {"_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "trained_betas": [0.1]}
    assert stated_noise(base_with(tmp_path, other)) == {}


def test_a_damaged_file_is_told(tmp_path):
    with pytest.raises(WeightsError, match="damaged"):
        stated_noise(base_with(tmp_path, "{"))


@pytest.mark.parametrize("value", [None, "0.012", [0.1], True])
def test_numbers_that_are_none_are_told(value, tmp_path):
    base = base_with(tmp_path, {**VELOCITY, "beta_end": value})
    with pytest.raises(WeightsError, match="damaged") as caught:
        stated_noise(base)
    (problem,) = caught.value.problems
    assert problem.found == f"beta_end {value!r}"
    assert problem.where.endswith("scheduler_config.json")


def test_kinds_that_nobody_knows_state_nothing(tmp_path):
    config = {**VELOCITY, "beta_schedule": ["linear"], "prediction_type": {"v": 1}}
    assert stated_noise(base_with(tmp_path, config)) == {"zero_terminal_snr": True}
