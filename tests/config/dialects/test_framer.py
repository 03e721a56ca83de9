"""FramerTurbo's trainer: every flag, its start scripts' variables, the parts of commands that its guide shows."""

import numpy as np
import pytest

from cinelora.base.errors import RecipeError
from cinelora.config.dialects.framer import DIALECTS
from config.dialects.seeds import blocks, command_blocks
from config.dialects.stand_ins import check_small, clip, keys_of, picture, settled, texts

FLAGS = """
pretrained_model_path svd_model_path data_dir dataset_type num_frames height width output_dir train_batch_size
gradient_accumulation_steps num_train_epochs learning_rate lr_scheduler lr_warmup_steps adam_beta1 adam_beta2
adam_weight_decay adam_epsilon max_grad_norm lora_rank lora_alpha lora_dropout train_unet train_controlnet
checkpointing_steps resume_from_checkpoint logging_dir use_wandb wandb_project report_to seed num_workers
mixed_precision noise_offset prediction_type
"""
DEFAULTS = {
    "model.family": "framer",
    "model.variant": "512x320",
    "model.base": "checkpoints/framer_512x320",
    "model.dtype": "fp16",
    "data.source.0.path": "videos",
    "data.source.0.reader": "folder",
    "data.frames": [3],
    "data.size": [320, 512],
    "data.buckets": "single",
    "data.upscale": True,
    "data.clip": "random",
    "data.num_variants": 4,
    "lora.rank": 64,
    "lora.alpha": 64,
    "lora.dropout": 0.0,
    "lora.targets": "attention+ffn",
    "train.epochs": 2.5,
    "train.micro_size": 1,
    "train.accumulation": 4,
    "train.lr": 1e-4,
    "train.betas": [0.9, 0.999],
    "train.eps": 1e-8,
    "train.weight_decay": 1e-2,
    "train.schedule": "constant",
    "train.warmup_steps": 500,
    "train.clip_norm": 1.0,
    "train.precision": "fp16",
    "train.gradient_checkpointing": True,
    "train.seed": 42,
    "train.save_every_steps": 500,
}
"""What it takes by itself, with --data_dir videos --train_unet; 10 passes over one stretch are 2.5 over four."""
VARIABLES = """
# what the guide tells one to change
DATA_DIR="videos"  # a folder
DATASET_TYPE="video"  # or "image_pair"

BATCH_SIZE=2          # clips
GRADIENT_ACCUM=8      # micro-batches
EPOCHS=20             # passes
LEARNING_RATE=5e-5
"""
SCRIPT = """#!/bin/bash
PRETRAINED_MODEL="checkpoints/framer_512x320"
SVD_MODEL="checkpoints/stable-video-diffusion-img2vid-xt"
DATA_DIR="videos"
OUTPUT_DIR="outputs/signs"
DATASET_TYPE="video"
NUM_FRAMES=5
HEIGHT=576
WIDTH=576
BATCH_SIZE=1
GRADIENT_ACCUM=8
EPOCHS=30
LEARNING_RATE=1e-4
LR_SCHEDULER="constant_with_warmup"
WARMUP_STEPS=500
LORA_RANK=64
LORA_ALPHA=64
LORA_DROPOUT=0.0
MIXED_PRECISION="bf16"
CHECKPOINT_STEPS=200
USE_WANDB=""
NUM_WORKERS=8
SEED=42
echo "effective: $((BATCH_SIZE * GRADIENT_ACCUM))"
SCRIPT_DIR="$( cd "$( dirname "${BASH_SOURCE[0]}" )" && pwd )"
cd "$SCRIPT_DIR"
accelerate launch training/train_lora.py --pretrained_model_path "$PRETRAINED_MODEL" --svd_model_path "$SVD_MODEL" \\
  --data_dir "$DATA_DIR" --dataset_type "$DATASET_TYPE" --output_dir "$OUTPUT_DIR" --num_frames $NUM_FRAMES \\
  --height $HEIGHT --width $WIDTH --train_batch_size $BATCH_SIZE --gradient_accumulation_steps $GRADIENT_ACCUM \\
  --num_train_epochs $EPOCHS --learning_rate $LEARNING_RATE --lr_scheduler "$LR_SCHEDULER" \\
  --lr_warmup_steps $WARMUP_STEPS --lora_rank $LORA_RANK --lora_alpha $LORA_ALPHA --lora_dropout $LORA_DROPOUT \\
  --train_unet --checkpointing_steps $CHECKPOINT_STEPS --mixed_precision "$MIXED_PRECISION" \\
  --num_workers $NUM_WORKERS --seed $SEED \\
  $USE_WANDB
"""


def tracks(path):
    """Two points that stay where they are."""
    np.savez(path, tracks=np.full((48, 2, 2), 20.0), visible=np.ones((48, 2), bool))


def train(folder, words):
    """A launch script with these words behind the program."""
    return texts(folder, run__sh=f"accelerate launch training/train_lora.py {words}\n")[0]


def test_every_flag_of_the_script_has_a_row():
    assert set(DIALECTS[0].settings) == set(FLAGS.split())


def test_what_the_script_takes_by_itself(tmp_path):
    keys, rows = keys_of(train(tmp_path, "--data_dir videos --train_unet"))
    assert keys == DEFAULTS
    assert [row for row in rows if row.said and not row.said[0].default and row.said[0].name != "train_unet"] == []


def test_the_variables_of_the_guide(tmp_path):
    keys, _ = keys_of(*texts(tmp_path, train_lora__sh=VARIABLES))
    changed = {"train.micro_size": 2, "train.accumulation": 8, "train.epochs": 5, "train.lr": 5e-5}
    assert keys == {**DEFAULTS, **changed}


def test_the_variable_of_a_switch(tmp_path):
    done = settled(*texts(tmp_path, train_lora__sh='USE_WANDB="--use_wandb"\n'))
    assert done.outcome.entries["report.trackers"].value == ["wandb"]
    assert [problem.what for problem in done.open] == ["data.source.0.path is missing"]


def test_a_whole_start_script(tmp_path):
    keys, rows = keys_of(*texts(tmp_path, train_lora__sh=SCRIPT))
    changed = {
        "data.frames": [5],
        "data.size": [576, 576],
        "train.accumulation": 8,
        "train.epochs": 7.5,
        "train.precision": "bf16",
        "model.dtype": "bf16",
        "train.save_every_steps": 200,
        "run.folder": "outputs/signs",
    }
    assert keys == {**DEFAULTS, **changed}
    assert {row.said[0].name: row.fate for row in rows} == {
        "svd_model_path": "elsewhere",
        "num_workers": "elsewhere",
        "train_unet": None,
    }


PARTS = {
    "several GPUs": ("accelerate config  # once\naccelerate launch training/train_lora.py ...  # goes on\n", {}, {}),
    "resume": (
        "python training/train_lora.py \\\n  --resume_from_checkpoint outputs/checkpoint-1000 \\\n  ...\n",
        {},
        {"resume_from_checkpoint": "dead"},
    ),
    "ControlNet alone": (
        "python training/train_lora.py \\\n  --train_controlnet \\  # alone\n  --learning_rate 5e-5 \\  # low\n  ...\n",
        {
            "model.variant": "512x320-tracks",
            "data.source.0.track_suffix": "_tracks",
            "lora.parts.unet": "frozen",
            "lora.parts.controlnet": "full",
            "lora.rank": None,
            "lora.targets": None,
            "train.lr": 5e-5,
        },
        {},
    ),
    "both": (
        "python training/train_lora.py \\\n  --train_unet \\\n  --train_controlnet \\\n  --lora_rank 64 \\\n  ...\n",
        {
            "model.variant": "512x320-tracks",
            "data.source.0.track_suffix": "_tracks",
            "lora.parts.unet": "lora",
            "lora.parts.controlnet": "full",
            "lora.rank": 64,
        },
        {},
    ),
}
"""The guide's parts of commands: text, keys, and fates of what has none."""


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_commands(name, tmp_path):
    text, wanted, fates = PARTS[name]
    done = settled(*texts(tmp_path, part__sh=text))
    entries = {key: entry.value for key, entry in done.outcome.entries.items()}
    assert {key: entries.get(key) for key in wanted} == wanted
    assert {row.said[0].name: row.fate for row in done.outcome.rows if row.fate} == fates
    assert [problem.what for problem in done.open] == ["data.source.0.path is missing"]


def test_pairs_have_two_frames(tmp_path):
    keys, rows = keys_of(train(tmp_path, "--data_dir pairs --dataset_type image_pair --num_frames 3 --train_unet"))
    wanted = {"data.frames": [2], "data.source.0.reader": "pairs", "train.epochs": 10, "data.num_variants": None}
    assert {key: keys.get(key) for key in wanted} == wanted
    told = [row.why for row in rows if row.said and "--num_frames" in {one.spelt for one in row.said}]
    assert any("copies of the first" in why for why in told)


def test_what_the_script_did_wrong_has_no_key(tmp_path):
    _, rows = keys_of(train(tmp_path, "--data_dir v --train_unet --noise_offset 0.1 --prediction_type epsilon"))
    assert {row.said[0].name: row.fate for row in rows if row.fate} == {
        "noise_offset": "wrong",
        "prediction_type": "wrong",
    }


def test_plain_svd(tmp_path):
    words = "--data_dir v --train_unet --pretrained_model_path models/stable-video-diffusion-img2vid-xt"
    assert keys_of(train(tmp_path, words))[0]["model.variant"] == "svd-xt"
    assert keys_of(train(tmp_path, f"{words} --train_controlnet"))[0]["model.variant"] == "svd-xt-tracks"


def test_what_cannot_be_is_told_with_its_line(tmp_path):
    with pytest.raises(RecipeError) as caught:
        keys_of(
            train(tmp_path, "--data_dir v --lora_rnak 4 --dataset_type pictures --mixed_precision fp8 --width wide")
        )
    told = str(caught.value)
    for word in ("--lora_rank", "video, image_pair", "no, fp16, bf16", "--width", "run.sh:1"):
        assert word in told


def parts_of_the_guide():
    """What the guide shows of commands and of variables."""
    variables = [block for block in blocks("002") if "DATA_DIR=" in block or "USE_WANDB=" in block]
    return variables + command_blocks("002")


@pytest.mark.skipif(not command_blocks("002"), reason="the guide is not here")
def test_every_part_of_the_guide_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "videos" / "a.mp4")
    tracks(tmp_path / "videos" / "a_tracks.npz")
    found = parts_of_the_guide()
    assert len(found) == 6
    for number, part in enumerate(found):
        source = texts(tmp_path, **{f"part-{number}__sh": part})[0]
        variant = keys_of(source)[0]["model.variant"]
        model = "framer/tiny-tracks" if variant.endswith("-tracks") else "framer/tiny"
        check_small(tmp_path, source, model=model, **{"data.source.0.path": "videos", "data.frames": [3]})


def test_the_recipe_of_videos_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "videos" / "below" / "a.mp4")
    check_small(tmp_path, *texts(tmp_path, train_lora__sh=SCRIPT), model="framer/tiny", **{"data.frames": [3]})


def test_the_recipe_of_pairs_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "pairs" / "a_start.png")
    picture(tmp_path / "pairs" / "a_end.png")
    source = train(tmp_path, "--data_dir pairs --dataset_type image_pair --train_unet")
    check_small(tmp_path, source, model="framer/tiny")


def test_the_recipe_of_a_controlnet_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "videos" / "a.mp4")
    tracks(tmp_path / "videos" / "a_tracks.npz")
    source = train(tmp_path, "--data_dir videos --train_controlnet")
    check_small(tmp_path, source, model="framer/tiny-tracks")
