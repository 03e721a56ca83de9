"""Settings of Wan that do not go together: each is told, with what to do, before any file of the base is looked at."""

import numpy as np
import pytest
from diffusers import WanTransformer3DModel

from cinelora.families.wan.card import CARD
from cinelora.media.write import write_png

RECIPE = """
[model]
family = "wan"
variant = "t2v-14b"
base = "nowhere"
[data]
frames = [1]
size = [64, 64]
held_out = 0.0
cache_dir = "cache"
[[data.source]]
path = "clips"
[train]
device = "cpu"
steps = 1
[run]
folder = "run"
"""
DISTILL = "method.name=distill"


@pytest.fixture
def refused(typed, tmp_path):
    """Train with some settings; gives back exit code and what was said, after seeing that nothing was touched."""
    (tmp_path / "clips").mkdir()
    write_png(tmp_path / "clips" / "a.png", np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "clips" / "a.txt").write_text("a caption")
    (tmp_path / "r.toml").write_text(RECIPE)

    def run(*settings, recipe=""):
        (tmp_path / "r.toml").write_text(recipe or RECIPE)
        words = [word for setting in settings for word in ("--set", setting)]
        code, said = typed("train", "r.toml", *words)
        assert not (tmp_path / "cache").exists()
        assert not (tmp_path / "run").exists()
        return code, said

    return run


CASES = {
    "a list of targets, as VideoX-Fun has it": (
        ["lora.targets=q,k,v,ffn.0,ffn.2"],
        ["matches no linear module", r"blocks\.\d+\.attn\d+\.to_k", "one regular expression, not a list"],
    ),
    "a target with a space": (["lora.targets=.*to_k "], ["matches no linear module", "nearest", "whole name"]),
    "a target of another family": (["lora.targets=.*img_attn.*"], ["matches no linear module of part 'transformer'"]),
    "unknown method": (["method.name=distil"], ["method.name", "nearest: distill"]),
    "unknown option": (
        [DISTILL, "method.gen_update_interval=5"],
        ["unknown key method.gen_update_interval", "generator_every"],
    ),
    "few steps as one word": (
        [DISTILL, "method.denoising_steps=1000,750,500,250"],
        ["method.denoising_steps", "should be a list"],
    ),
    "few steps as words": (
        [DISTILL, 'method.denoising_steps=["a", "b"]'],
        ["method.denoising_steps", "whole number"],
    ),
    "few steps that rise": ([DISTILL, "method.denoising_steps=[250, 500]"], ["must fall", "[250, 500]"]),
    "few steps beyond the range": ([DISTILL, "method.denoising_steps=[1001, 500]"], ["between 1 and 1000"]),
    "no few steps": ([DISTILL, "method.denoising_steps=[]"], ["method.denoising_steps", "at least 1"]),
    "distillation's settings without it": (
        ["method.critic_lr=1e-6"],
        ["method.critic_lr has no effect", "name = 'finetune'", "name = 'distill'"],
    ),
    "finetuning's settings in a distillation": ([DISTILL, "method.motion_loss=0.25"], ["motion_loss has no effect"]),
    "distillation of a part in full": ([DISTILL, 'lora.parts.transformer="full"'], ["no part can learn in full"]),
    "times of scores": ([DISTILL, "method.score_t_min=0.99"], ["score_t_min must be below score_t_max"]),
    "a negative prompt for nothing": (
        [DISTILL, "method.negative_prompt=bad", "method.real_guidance=1"],
        ["negative_prompt has no effect"],
    ),
    "size of the 5B": (
        ["model.variant=2.2-ti2v-5b", "data.size=[720, 1280]"],
        ["data.size", "[720, 1280]", "704", "32"],
    ),
    "frames": (["data.frames=[16]"], ["data.frames", "13 or 17"]),
    "all levels on one expert": (
        ["model.variant=2.2-t2v-high", "noise.t_min=0.0"],
        ["noise.t_min asks for noise levels", "allowed: from 0.875", "leave noise.t_min out"],
    ),
    "the other boundary": (
        ["model.variant=2.2-t2v-low", "noise.t_max=0.9"],
        ["noise.t_max asks for noise levels", "allowed: up to 0.875"],
    ),
    "experts of a single model": (['model.experts=["high"]'], ["has no experts", "model.experts"]),
    "an expert that is none": (
        ["model.variant=2.2-t2v-a14b", 'model.experts=["full"]'],
        ["model.experts", "allowed: high, low"],
    ),
    "pictures dropped where none are taken": (
        ["model.image_dropout=0.5"],
        ["model.image_dropout has no effect", "takes no pictures"],
    ),
    "a picture for previews without one": (
        ["model.variant=i2v-14b-480p", 'preview.prompts=["x"]'],
        ["cannot sample from a prompt alone", "preview.images"],
    ),
    "pictures for text-to-video": (
        ['preview.prompts=["x"]', 'preview.images=["clips/a.png"]'],
        ["takes no pictures"],
    ),
    "dora in files that cannot hold it": (
        ["lora.dora=true", 'lora.files=["diffusers", "musubi"]'],
        ["lora", "layout musubi cannot hold dora's lengths", "take diffusers or peft"],
    ),
    "dora with a start from the base": (["lora.dora=true", "lora.init=pissa"], ["dora cannot start from"]),
    "a layout that is none": (
        ['lora.files=["musubi-tuner"]'],
        ["lora.files names no adapter layout of wan/t2v-14b", "found: musubi-tuner", "nearest: musubi"],
    ),
    "a layout of another family": (['lora.files=["kohya"]'], ["allowed: diffusers, comfyui, musubi, videox"]),
    "a layout twice": (['lora.files=["comfyui", "comfyui"]'], ["names a layout twice"]),
    "an average that never moves": (["train.ema_decay=1.0"], ["train.ema_decay", "less than 1"]),
    "no seed": (["train.seed=none"], ["train.seed", "whole number"]),
    "weights with no mean": (["noise.weighting=sigma_sqrt"], ["t_min above 0"]),
    "unknown sampler": (['preview.prompts=["x"]', "preview.sampler=flow"], ["preview.sampler", "renoise"]),
    "an optimizer's name in other letters": (["train.optimizer=AdamW8Bit"], ["train.optimizer", "nearest: adamw_8bit"]),
    "unknown variant": (["model.variant=2.2-i2v-a14"], ["no such variant", "nearest: 2.2-i2v-a14b"]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_go_together_is_told_before_the_base_is_looked_at(name, refused):
    settings, words = CASES[name]
    code, said = refused(*settings)
    assert code == 2, said
    assert [word for word in words if word not in said] == [], said
    assert "does not exist" not in said


def test_the_recipe_itself_gets_as_far_as_the_base(refused):
    """So that each refusal above is for the reason that it names."""
    code, said = refused()
    assert code == 4
    assert "the base does not exist" in said
    assert refused(DISTILL)[0] == 4


def test_several_at_once_are_told_at_once(refused):
    said = refused("method.name=distil", "data.frames=[16]", 'lora.files=["kohya"]', "train.ema_decay=2")[1]
    assert "method.name" in said
    assert "train.ema_decay" in said


def test_a_text_base_under_a_picture_variant_is_told_with_what_fits(refused, tmp_path):
    network = {**CARD.variants["tiny"].network["transformer"]}
    WanTransformer3DModel(**network).save_pretrained(tmp_path / "base" / "transformer")
    code, said = refused("model.base=base", "model.variant=tiny-i2v")
    assert code == 4
    assert "in_channels 16" in said
    assert "allowed: in_channels 36" in said
    assert "fits model.variant = 'tiny'" in said
