import json
import os

import pytest

from cinelora.base.errors import RunError
from cinelora.train import zero_asked
from cinelora.train.options import TrainOptions
from cinelora.train.zero_asked import asked_zero

SEEDS_ZERO_2 = {
    "bf16": {"enabled": True},
    "train_micro_batch_size_per_gpu": 1,
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "dump_state": True,
    "zero_optimization": {
        "stage": 2,
        "allgather_partitions": True,
        "allgather_bucket_size": 2e8,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 5e8,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
    },
}
"""After the file that VideoX-Fun publishes."""


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    for name in list(os.environ):
        if name.startswith("ACCELERATE_") or name == "WORLD_SIZE":
            monkeypatch.delenv(name)
    monkeypatch.setattr(zero_asked, "find_spec", lambda package: object())


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What comes of the launcher's words and its file, under options of [train]."""

    def ask(settings=None, *, words=None, draws_only=False, **options):
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        if settings is not None:
            (tmp_path / "zero.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))
            monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
        for name, value in (words or {}).items():
            monkeypatch.setenv(name, value)
        return asked_zero(TrainOptions(**options), draws_only=draws_only)

    return ask


def test_nobody_asks():
    assert asked_zero(TrainOptions()) is None
    assert asked_zero(TrainOptions(zero=2), draws_only=True) is None


@pytest.mark.parametrize("stage", [1, 2])
def test_the_recipe_asks(stage):
    found = asked_zero(TrainOptions(zero=stage))
    assert (found.stage, found.asked, found.told) == (stage, stage, [])


def test_the_seeds_file_is_read_and_what_has_no_say_is_told(asked):
    found = asked(SEEDS_ZERO_2)
    assert (found.stage, found.asked, found.offload) == (2, 2, "")
    assert found.buckets == {"reduce_bucket_size": 5e8, "allgather_bucket_size": 2e8}
    (told,) = found.told
    names = ("dump_state", "zero_optimization.overlap_comm", "zero_optimization.sub_group_size")
    assert all(name in told for name in names)
    assert not any(name in told for name in ("bucket", "bf16", "stage", "micro", "batch_size"))
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ  # accelerate is to prepare nothing of its own


def test_zero_3_is_said_to_be_done_otherwise(asked):
    found = asked({"zero_optimization": {"stage": 3}}, words={"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"})
    assert (found.stage, found.asked) == (2, 3)
    assert found.told[0].startswith("ZeRO-3 is done by FSDP2 for the frozen base, by ZeRO-2 for what learns: ")


@pytest.mark.parametrize(("words", "stage"), [({}, 2), ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, 1)])
def test_words_without_a_file(words, stage, asked):
    assert asked(words=words).stage == stage
    assert asked(words=words, zero=stage).stage == stage


def test_words_and_settings_that_say_the_same_pass(asked, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    words = {
        "ACCELERATE_GRADIENT_CLIPPING": "0.05",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "3",
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu",
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
    }
    optimizer = {"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.999], "weight_decay": "auto"}}
    settings = {
        "gradient_clipping": 0.05,
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 2,
        "optimizer": optimizer,
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": 1},
    }
    found = asked(settings, words=words, clip_norm=0.05, accumulation=3, micro_size=2)
    assert (found.stage, found.offload, found.unheard) == (1, "cpu", [])
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" not in os.environ


def test_what_contradicts_the_recipe_is_told_with_both_values_and_all_at_once(asked):
    settings = {
        "gradient_clipping": 1.0,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "fp16": {"enabled": True},
        "bf16": {"enabled": False},
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3}},
        "scheduler": {"type": "WarmupLR"},
        "zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}},
    }
    with pytest.raises(RunError) as error:
        asked(settings, clip_norm=0.05, micro_size=3, words={"ACCELERATE_GRADIENT_CLIPPING": "0.5"})
    assert len(error.value.problems) == 10
    for both in (
        ("gradient_clipping = 1.0", "train.clip_norm = 0.05"),
        ("gradient_clipping = 0.5", "train.clip_norm = 0.05"),
        ("train_micro_batch_size_per_gpu = 1", "train.micro_size = 3"),
        ("gradient_accumulation_steps = 2", "train.accumulation = 1"),
        ("fp16.enabled = true", "train.precision = 'bf16'"),
        ("bf16.enabled = false", "train.precision = 'bf16'"),
        ("optimizer.type = Adam", "train.optimizer = adamw"),
        ("optimizer.params.lr = 0.001", "train.lr = 0.0001"),
    ):
        assert any(all(word in str(problem) for word in both) for problem in error.value.problems), both
    assert "scheduler.type" in str(error.value)
    assert "offload_param.device" in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words", "options", "said"),
    [
        ({"zero_optimization": {"stage": 2}}, {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, {}, "--zero_stage 3"),
        ({"zero_optimization": {"stage": 0}}, {}, {}, "spread nothing"),
        ({}, {}, {}, "spread nothing"),
        ({"zero_optimization": {"stage": "auto"}}, {}, {}, "stage 'auto'"),
        ({"zero_optimization": {"stage": 1}}, {}, {"zero": 2}, r"allowed:? *train\.zero = 2|train\.zero = 2"),
        ("{", {}, {}, "cannot be read"),
        ("[]", {}, {}, "is no table"),
        (None, {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "nowhere.json"}, {}, "nowhere.json"),
        (None, {}, {"optimizer": "prodigy", "lr": 1.0}, "train.optimizer = 'prodigy'"),
        (None, {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"}, {}, "nvme"),
        (None, {}, {"draws_only": True}, "drawing has no use"),
    ],
)
def test_what_is_not_done_is_refused(settings, words, options, said, asked):
    with pytest.raises(RunError, match=said):
        asked(settings, words=words, **options)


@pytest.mark.parametrize("by_recipe", [True, False])
def test_without_the_package_the_way_out_is_told(by_recipe, asked, monkeypatch):
    monkeypatch.setattr(zero_asked, "find_spec", lambda package: None)
    with pytest.raises(RunError, match=r"pip install 'cinelora\[deepspeed\]'"):
        asked_zero(TrainOptions(zero=1)) if by_recipe else asked()
