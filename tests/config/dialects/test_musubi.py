"""musubi-tuner's trainer of Wan: command, --config_file and dataset TOML become one recipe that passes `check`."""

import pytest

from cinelora.base.errors import RecipeError
from config.dialects.stand_ins import check_small, clip, keys_of, picture, settled, texts

COMMAND = """
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision bf16 src/musubi_tuner/wan_train_network.py \\
  --task t2v-1.3B --dit models/wan2.1_t2v_1.3B_bf16.safetensors --dataset_config dataset.toml --sdpa \\
  --mixed_precision bf16 --fp8_base --optimizer_type adamw8bit --learning_rate 2e-4 --gradient_checkpointing \\
  --max_data_loader_n_workers 2 --persistent_data_loader_workers --network_module networks.lora_wan --network_dim 32 \\
  --timestep_sampling shift --discrete_flow_shift 3.0 --max_train_epochs 16 --save_every_n_epochs 1 --seed 42 \\
  --vae models/wan_2.1_vae.safetensors --t5 models/t5.pth --sample_prompts prompts.txt --sample_at_first \\
  --output_dir out --output_name mine
"""
DATASET = """
[general]
resolution = [960, 544]
caption_extension = ".txt"
batch_size = 1
enable_bucket = true
bucket_no_upscale = false

[[datasets]]
video_directory = "videos"
cache_directory = "cache"
target_frames = [1, 25, 45]
frame_extraction = "head"
source_fps = 30.0

[[datasets]]
image_directory = "pictures"
cache_directory = "cache2"
num_repeats = 3
resolution = [640, 480]
"""
CONFIG = """
[model]
task = "{task}"
dit = "models/wan2.2_{task_}_low_noise_14B.safetensors"
{more}
[training]
network_module = "networks.lora_wan"
network_dim = 16
network_alpha = 16
learning_rate = 1e-4
mixed_precision = "fp16"
optimizer_args = ["weight_decay=0.02", "betas=0.9,0.99"]
"""


def dataset(lines, general="resolution = 512"):
    """A dataset TOML of one dataset with these lines."""
    return f'[general]\n{general}\n\n[[datasets]]\nvideo_directory = "videos"\n{lines}\n'


def test_the_guides_command_and_dataset(tmp_path):
    keys, rows = keys_of(*texts(tmp_path, run__sh=COMMAND, dataset__toml=DATASET))
    assert keys == {
        "model.family": "wan",
        "model.variant": "t2v-1.3b",
        "model.base": "models/wan2.1_t2v_1.3B_bf16.safetensors",
        "model.dtype": "bf16",
        "model.text_dropout": 0.0,
        "data.source.0.path": "videos",
        "data.source.0.reader": "folder",
        "data.source.0.rules.frames": [1, 25, 45],
        "data.source.0.rules.clip": "head",
        "data.source.1.path": "pictures",
        "data.source.1.reader": "folder",
        "data.source.1.repeats": 3,
        "data.source.1.rules.size": [480, 640],
        "data.size": [544, 960],
        "data.buckets": "grid",
        "data.upscale": True,
        "lora.rank": 32,
        "lora.alpha": 1,
        "lora.targets": "attention+ffn",
        "lora.files": ["comfyui", "diffusers", "musubi"],
        "noise.timesteps": "logit_normal",
        "noise.logit_std": 1.0,
        "noise.shift": 3.0,
        "train.epochs": 16,
        "train.micro_size": 1,
        "train.accumulation": 1,
        "train.optimizer": "adamw_8bit",
        "train.weight_decay": 0.01,
        "train.lr": 2e-4,
        "train.clip_norm": 1.0,
        "train.schedule": "constant",
        "train.precision": "bf16",
        "train.gradient_checkpointing": True,
        "train.keep_every_epochs": 1,
        "train.seed": 42,
        "run.folder": "out/mine",
        "memory.quantise": "fp8",
    }
    fates = {row.said[0].name: row.fate for row in rows if row.fate}
    assert fates["vae"] == fates["sample_prompts"] == fates["datasets.0.cache_directory"] == "elsewhere"
    assert fates["datasets.0.source_fps"] == "always"


def config(task, more=""):
    """A --config_file of Wan 2.2."""
    return CONFIG.format(task=task, task_=task[:3], more=more)


EXPERTS = {
    "low": (
        "t2v-A14B",
        "",
        {"model.variant": "2.2-t2v-low", "model.base": "models/wan2.2_t2v_low_noise_14B.safetensors"},
    ),
    "both": (
        "i2v-A14B",
        'dit_high_noise = "models/wan2.2_i2v_high_noise_14B.safetensors"\noffload_inactive_dit = true',
        {"model.variant": "2.2-i2v-a14b", "model.base": "models", "model.experts_in_memory": "one"},
    ),
    "range": ("t2v-A14B", "min_timestep = 0\nmax_timestep = 875", {"noise.t_min": 0.0, "noise.t_max": 0.875}),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_of_2_2(name, tmp_path):
    task, more, wanted = EXPERTS[name]
    keys, _ = keys_of(*texts(tmp_path, train__toml=config(task, more), dataset__toml=dataset("target_frames = [17]")))
    both = {"train.weight_decay": 0.02, "train.betas": [0.9, 0.99], "lora.alpha": 16, "train.steps": 1600}
    assert {key: keys.get(key) for key in {**wanted, **both}} == {**wanted, **both}


def test_a_name_says_which_expert_or_size(tmp_path):
    high = config("t2v-A14B").replace("low_noise", "high_noise")
    assert keys_of(*texts(tmp_path, a__toml=high, dataset__toml=dataset("")))[0]["model.variant"] == "2.2-t2v-high"
    large = config("i2v-14B").replace("wan2.2_i2v_low_noise_14B", "wan2.1_i2v_720p_14B")
    assert keys_of(*texts(tmp_path, a__toml=large, dataset__toml=dataset("")))[0]["model.variant"] == "i2v-14b-720p"


EXTRACTED = {
    "head": ('target_frames = [14, 45]\nframe_extraction = "head"', {"clip": "head", "frames": [13, 45]}),
    "chunk": ('target_frames = [25]\nframe_extraction = "chunk"', {"clip": "chunks", "frames": [25]}),
    "slide": (
        'target_frames = [25]\nframe_extraction = "slide"\nframe_stride = 10',
        {"clip": "sliding", "slide_frames": 10, "frames": [25]},
    ),
    "uniform": (
        'target_frames = [25]\nframe_extraction = "uniform"\nframe_sample = 4',
        {"clip": "random", "num_variants": 4, "frames": [25]},
    ),
    "full": ('frame_extraction = "full"\nmax_frames = 46', {"clip": "head", "frames": [45]}),
    "nothing said": ("", {"frames": [1]}),
}


@pytest.mark.parametrize("name", EXTRACTED)
def test_which_frames_are_taken(name, tmp_path):
    lines, wanted = EXTRACTED[name]
    keys, _ = keys_of(*texts(tmp_path, train__toml=config("t2v-14B"), dataset__toml=dataset(lines)))
    rules = {key.rpartition(".")[2]: value for key, value in keys.items() if ".rules." in key}
    assert rules == wanted


SAMPLED = {
    "sigma": ("", {"noise.timesteps": "uniform", "noise.shift": 1.0, "noise.logit_std": None}),
    "by a scheme": (
        'weighting_scheme = "logit_normal"\nlogit_mean = 0.5\nlogit_std = 0.8\ndiscrete_flow_shift = 2.0',
        {"noise.timesteps": "logit_normal", "noise.logit_mean": 0.5, "noise.logit_std": 0.8, "noise.shift": 2.0},
    ),
    "weighted": ('weighting_scheme = "cosmap"', {"noise.timesteps": "uniform", "noise.weighting": "cosmap"}),
    "uniform": (
        'timestep_sampling = "uniform"\ndiscrete_flow_shift = 3.0',
        {"noise.timesteps": "uniform", "noise.shift": 1.0},
    ),
    "sigmoid": (
        'timestep_sampling = "sigmoid"\nsigmoid_scale = 0.5\nlogit_std = 3.0',
        {"noise.timesteps": "logit_normal", "noise.logit_std": 0.5, "noise.shift": 1.0},
    ),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_how_levels_are_drawn(name, tmp_path):
    lines, wanted = SAMPLED[name]
    keys, _ = keys_of(*texts(tmp_path, train__toml=config("t2v-14B", lines), dataset__toml=dataset("")))
    assert {key: keys.get(key) for key in wanted} == wanted


def test_a_setting_that_changes_nothing_has_a_row(tmp_path):
    lines = 'timestep_sampling = "uniform"\nsigmoid_scale = 2.0'
    _, rows = keys_of(*texts(tmp_path, train__toml=config("t2v-14B", lines), dataset__toml=dataset("")))
    assert "of sigmoid and shift alone" in [row.why for row in rows if row.said[0].name == "sigmoid_scale"]


WRONG = {
    "another network": (config("t2v-14B").replace("lora_wan", "loha"), dataset(""), "networks.loha"),
    "another task": (config("t2v-14B-FC"), dataset(""), "t2v-14B-FC"),
    "patterns": (config("t2v-14B", 'network_args = ["include_patterns=.*"]'), dataset(""), "lora.targets"),
    "control": (config("t2v-14B"), dataset('control_directory = "c"'), "control"),
    "a key of another trainer": (config("t2v-14B"), dataset("frame_buckets = [1]"), "frame_buckets"),
    "a misspelt key": (config("t2v-14B", "netwrok_dim = 4"), dataset(""), "network_dim"),
    "a share of the run": (config("t2v-14B", "lr_warmup_steps = 0.1"), dataset(""), "optimizer steps"),
    "another optimizer": (config("t2v-14B", 'optimizer_type = "adafactor"'), dataset(""), "AdamW8bit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told(name, tmp_path):
    train, clips, word = WRONG[name]
    with pytest.raises(RecipeError) as caught:
        keys_of(*texts(tmp_path, train__toml=train, dataset__toml=clips))
    assert word in str(caught.value)
    assert ".toml:" in str(caught.value)


def test_sizes_of_micro_batches_must_agree(tmp_path):
    two = dataset("batch_size = 2") + '\n[[datasets]]\nvideo_directory = "others"\nbatch_size = 4\n'
    with pytest.raises(RecipeError, match=r"one value for all[\s\S]*dataset\.toml:10"):
        keys_of(*texts(tmp_path, train__toml=config("t2v-14B"), dataset__toml=two))


def test_no_key_of_a_service_is_shown(tmp_path):
    lines = 'wandb_api_key = "hidden-1"\nhuggingface_token = "hidden-2"'
    done = settled(*texts(tmp_path, train__toml=config("t2v-14B", lines), dataset__toml=dataset("")))
    assert "hidden" not in str([one.shown for row in done.outcome.rows for one in row.said])


def test_the_recipe_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "videos" / "a.mp4")
    picture(tmp_path / "pictures" / "b.png")
    texts(tmp_path, **{"videos/a__txt": "a red ball\n", "pictures/b__txt": "a blue ball\n"})
    sources = texts(tmp_path, run__sh=COMMAND, dataset__toml=DATASET)
    check_small(tmp_path, *sources, model="wan/tiny", **{"data.source.1.rules.size": [64, 64]})
