"""diffusion-pipe: training and dataset TOML become one recipe that passes `check`; other models are refused."""

import pytest

from cinelora.base.errors import RecipeError
from config.dialects.stand_ins import check_small, clip, keys_of, texts

TRAIN = """
output_dir = 'runs/wan'
dataset = 'dataset.toml'
epochs = 1000
micro_batch_size_per_gpu = 1
pipeline_stages = 1
gradient_accumulation_steps = 4
gradient_clipping = 1.0
warmup_steps = 100
blocks_to_swap = 20
eval_every_n_epochs = 1
eval_before_first_step = true
eval_micro_batch_size_per_gpu = 1
eval_gradient_accumulation_steps = 1
save_every_n_epochs = 2
checkpoint_every_n_minutes = 120
activation_checkpointing = true
partition_method = 'parameters'
save_dtype = 'bfloat16'
caching_batch_size = 1
steps_per_print = 1
video_clip_mode = 'single_middle'

[model]
type = 'wan'
ckpt_path = '{base}'
dtype = 'bfloat16'
transformer_dtype = 'float8'
timestep_sample_method = 'logit_normal'

[adapter]
type = 'lora'
rank = 32
dtype = 'bfloat16'

[optimizer]
type = 'adamw_optimi'
lr = 2e-5
weight_decay = 0.01

[monitoring]
enable_wandb = false
wandb_api_key = ''
wandb_tracker_name = ''
wandb_run_name = ''
"""
DATASET = """
resolutions = [512]
enable_ar_bucket = true
min_ar = 0.5
max_ar = 2.0
num_ar_buckets = 7
frame_buckets = [1, 33]

[[directory]]
path = 'videos'
num_repeats = 1
"""


def train(base="models/Wan2.1-T2V-1.3B", **changes):
    """The training TOML; a change replaces the line of that key, or puts one at the top."""
    text = TRAIN.format(base=base)
    for name, value in changes.items():
        lines = text.splitlines()
        at = next((k for k, line in enumerate(lines) if line.startswith(f"{name} =")), None)
        lines[0 if at is None else at] = f"{name} = {value}"
        text = "\n".join(lines) if at is not None else f"{name} = {value}\n{text}"
    return text


def both(folder, config, dataset=DATASET):
    return texts(folder, train__toml=config, dataset__toml=dataset)


def test_a_pair_of_files(tmp_path):
    keys, rows = keys_of(*both(tmp_path, train()))
    assert keys == {
        "model.family": "wan",
        "model.variant": "t2v-1.3b",
        "model.base": "models/Wan2.1-T2V-1.3B",
        "model.dtype": "bf16",
        "model.text_dropout": 0.0,
        "data.source.0.path": "videos",
        "data.source.0.repeats": 1,
        "data.size": [512, 512],
        "data.buckets": "grid",
        "data.upscale": True,
        "data.frames": [33],
        "data.clip": "middle",
        "data.short": "skip",
        "lora.rank": 32,
        "lora.targets": "attention+ffn",
        "lora.files": ["comfyui", "diffusers"],
        "noise.timesteps": "logit_normal",
        "noise.logit_std": 1.0,
        "noise.shift": 1.0,
        "train.epochs": 1000,
        "train.micro_size": 1,
        "train.accumulation": 4,
        "train.optimizer": "adamw",
        "train.lr": 2e-5,
        "train.betas": [0.9, 0.99],
        "train.eps": 1e-6,
        "train.weight_decay": 0.01,
        "train.clip_norm": 1.0,
        "train.schedule": "constant",
        "train.warmup_steps": 100,
        "train.precision": "bf16",
        "train.gradient_checkpointing": True,
        "train.keep_every_epochs": 2,
        "run.folder": "runs/wan",
        "memory.base": "streamed",
        "memory.quantise": "fp8",
    }
    fates = {row.said[0].name: row.fate for row in rows}
    assert fates["min_ar"] == "elsewhere"


def test_the_dataset_beside_the_training_file_is_read(tmp_path):
    first, _ = both(tmp_path, train())
    keys, _ = keys_of(first)
    assert keys["data.source.0.path"] == "videos"
    run = 'NCCL_P2P_DISABLE="1" deepspeed --num_gpus=1 train.py --deepspeed --config train.toml\n'
    assert keys_of(*texts(tmp_path, run__sh=run))[0] == keys


VARIANTS = {
    "models/Wan2.1-T2V-14B": ("", "t2v-14b"),
    "models/Wan2.1-I2V-14B-480P": ("", "i2v-14b-480p"),
    "models/Wan2.1-I2V-14B-720P": ("", "i2v-14b-720p"),
    "models/Wan2.2-TI2V-5B": ("", "2.2-ti2v-5b"),
    "models/Wan2.2-T2V-A14B": ("models/Wan2.2-T2V-A14B/low_noise_model", "2.2-t2v-low"),
    "models/Wan2.2-I2V-A14B": ("comfy/wan2.2_i2v_high_noise_14B_fp16.safetensors", "2.2-i2v-high"),
}


@pytest.mark.parametrize("base", VARIANTS)
def test_which_model_it_is(base, tmp_path):
    transformer, wanted = VARIANTS[base]
    config = train(base).replace(
        "[adapter]", f"transformer_path = '{transformer}'\n[adapter]" if transformer else "[adapter]"
    )
    assert keys_of(*both(tmp_path, config))[0]["model.variant"] == wanted


CASES = {
    "steps win": (train(max_steps=5000), DATASET, {"train.steps": 5000, "train.epochs": None}),
    "8 bits": (
        train().replace("'adamw_optimi'", "'AdamW8bitKahan'").replace("weight_decay = 0.01", "stabilize = false"),
        DATASET,
        {"train.optimizer": "adamw_8bit", "train.weight_decay": 0.01, "train.betas": None},
    ),
    "a pair as size": (train(), DATASET.replace("[512]", "[[1280, 720]]"), {"data.size": [720, 1280]}),
    "one shape": (train(), DATASET.replace("enable_ar_bucket = true", ""), {"data.buckets": "single"}),
    "a prefix": (
        train(),
        DATASET.replace("\n[[dir", "\ncaption_prefix = 'ohwx '\n[[dir"),
        {"data.source.0.caption_prefix": "ohwx "},
    ),
    "a directory's own": (
        train(),
        DATASET + "caption_prefix = 'a'\nresolutions = [[448, 576]]\nframe_buckets = [1]\ncache_shuffle_num = 4\n",
        {
            "data.source.0.caption_prefix": "a",
            "data.source.0.rules.size": [576, 448],
            "data.source.0.rules.frames": [1],
            "data.source.0.shuffle_tags": 4,
        },
    ),
    "tags": (train(), DATASET + "shuffle_tags = true\n", {"data.source.0.shuffle_tags": 1}),
    "no caption": (train(), DATASET + "skip_empty_caption = false\n", {"data.source.0.empty_caption": "allow"}),
    "levels": (
        train().replace("[adapter]", "min_t = 0.2\nmax_t = 0.9\nshift = 3\n[adapter]"),
        DATASET,
        {"noise.t_min": 0.2, "noise.t_max": 0.9, "noise.shift": 3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_settings_become(name, tmp_path):
    config, dataset, wanted = CASES[name]
    keys, _ = keys_of(*both(tmp_path, config, dataset))
    assert {key: keys.get(key) for key in wanted} == wanted


WRONG = {
    "another model": (train().replace("'wan'", "'hunyuan-video'"), DATASET, "'hunyuan-video'"),
    "an unknown base": (train("models/skyreels"), DATASET, "--model FAMILY/VARIANT"),
    "LoKr": (train().replace("'lora'", "'lokr'"), DATASET, "LoRA"),
    "no adapter": (train().replace("type = 'lora'", ""), DATASET, "without [adapter]"),
    "alpha": (train().replace("rank = 32", "rank = 32\nalpha = 16"), DATASET, "adapter.alpha"),
    "parallel": (train(pipeline_stages=2), DATASET, "not split"),
    "several sizes": (train(), DATASET.replace("[512]", "[512, 768]"), "several sizes"),
    "musubi's keys": (train(), DATASET + "target_frames = [33]\n", "target_frames"),
    "automagic": (train().replace("'adamw_optimi'", "'automagic'"), DATASET, "'automagic'"),
    "masks": (train(), DATASET + "mask_path = 'm'\n", "mask_suffix"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told(name, tmp_path):
    config, dataset, word = WRONG[name]
    with pytest.raises(RecipeError) as caught:
        keys_of(*both(tmp_path, config, dataset))
    assert word in str(caught.value)
    assert ".toml" in str(caught.value)


def test_the_recipe_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "videos" / "a.mp4")
    texts(tmp_path, **{"videos/a__txt": "a red ball\n"})
    check_small(tmp_path, *both(tmp_path, train()), model="wan/tiny", **{"data.frames": [9]})
