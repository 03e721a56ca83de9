"""Owns the tables of VideoX-Fun's trainers for Wan: scripts/wan2.1 and wan2.2, train_distill_lora.py and train_lora.py.
Data alone.

Sources: the scripts' argument parsers, data loading and training step (aigc-apps/VideoX-Fun, commit 804a425), and what
running them showed.
"""

from collections.abc import Mapping

from cinelora.config.dialects.videox_shared import (
    LOADER,
    NOT_THERE,
    OPTIMIZER,
    RUN,
    SCHEDULE,
    UNSAID,
    VIDEOX,
    WEIGHTING,
)
from cinelora.config.importing.dialect import Dialect, Given, Joint, Old

_BASE = "pretrained_model_name_or_path"
_DEAD = Old(fate="dead", why="the script does nothing with it")
_SINGLE = {
    r"Wan2\.1-T2V-1\.3B": {"model.variant": "t2v-1.3b"},
    r"Wan2\.1-T2V-14B": {"model.variant": "t2v-14b"},
    r"Wan2\.1-I2V-14B-480P": {"model.variant": "i2v-14b-480p"},
    r"Wan2\.1-I2V-14B-720P": {"model.variant": "i2v-14b-720p"},
    r"Wan2\.2-TI2V-5B": {"model.variant": "2.2-ti2v-5b"},
    r"Wan2\.2-T2V-A14B": {"model.variant": "2.2-t2v-low"},
    r"Wan2\.2-I2V-A14B": {"model.variant": "2.2-i2v-low"},
}
_MODEL: Mapping[str, Old] = {
    _BASE: Old(
        "model.base",
        by="text",
        patterns=tuple((f"(?i){name}", tables) for name, tables in _SINGLE.items()),
        why="its name says which variant it is",
    ),
    "config_path": Old(fate="elsewhere", why="networks, sizes and shift are the variant's own, or stand in [noise]"),
    "revision": _DEAD,
    "variant": _DEAD,
    "non_ema_revision": _DEAD,
    "transformer_path": Old(fate="impossible", why=NOT_THERE["weights"]),
    "vae_path": Old(fate="impossible", why=NOT_THERE["weights"]),
    "tokenizer_max_length": Old(fate="always", why="the variant's own: 512"),
    "boundary_type": Old(words={"low": {}, "high": {}, "full": {}}, default="low", why="the variant says it"),
    "train_mode": Old(
        words={"normal": {}, "i2v": {}, "ti2v": {}},
        default="normal",
        why="the variant says it; the script took any other word for i2v",
    ),
}
_PIECES = {
    **{
        f"{prefix}{name}": rf"{attention}\.{here}"
        for prefix, attention in (("", "attn[12]"), ("self_attn.", "attn1"), ("cross_attn.", "attn2"))
        for name, here in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", r"to_out\.0"))
    },
    **{
        f"{prefix}{name}": rf"attn2\.{here}"
        for prefix in ("", "cross_attn.")
        for name, here in (("k_img", "add_k_proj"), ("v_img", "add_v_proj"))
    },
    "ffn.0": r"ffn\.net\.0\.proj",
    "ffn.2": r"ffn\.net\.2",
    "text_embedding.0": r"text_embedder\.linear_1",
    "text_embedding.2": r"text_embedder\.linear_2",
    "time_embedding.0": r"time_embedder\.linear_1",
    "time_embedding.2": r"time_embedder\.linear_2",
    "time_projection.1": "time_proj",
    "head.head": "proj_out",
}
"""Modules by their names in the original network."""
_ADAPTER: Mapping[str, Old] = {
    "rank": Old("lora.rank", default="128"),
    "network_alpha": Old("lora.alpha", by="count", default="64"),
    "target_name": Old(
        "lora.targets", by="pieces", pieces=_PIECES, why="the same modules under the names of diffusers' network"
    ),
    "lora_skip_name": Old(fate="impossible", why="remove it, and name in --target_name what is to learn"),
    "use_peft_lora": Old(
        switch=True,
        words={
            "set": {"lora.files": ["videox-peft", "comfyui", "diffusers"]},
            "unset": {"lora.files": ["videox", "comfyui", "diffusers"]},
        },
        default="unset",
        why="the layout of the script's own files, and those that ComfyUI and diffusers read; all say their strength",
    ),
    "train_text_encoder": Old(
        fate="impossible", switch=True, default="unset", why="remove it: texts come from the cache"
    ),
}
_SHARED_FLAGS: Mapping[str, Old] = {
    "fix_sample_size": Old(many=True, why="height and width of every clip"),
    "auto_tile_batch_size": Old("data.videox.auto_tile_batch_size", by="flag", switch=True),
    "uniform_sampling": Old("noise.stratified", by="flag", switch=True, default="unset", why="spread over all clips"),
    "train_sampling_steps": Old(fate="always", why="a flow has any time between"),
    "enable_text_encoder_in_dataloader": Old(fate="elsewhere", switch=True, why=NOT_THERE["cache"]),
    "multi_stream": Old(fate="elsewhere", switch=True, why=NOT_THERE["cache"]),
    "report_model_info": Old(fate="always", switch=True, why="the norm of the gradient is in the report"),
    "use_fsdp": Old(fate="elsewhere", switch=True, why="the launcher says it"),
    "validation_paths": Old("preview.images", by="texts", many=True, why="pictures that previews start from"),
}
_DEAD_FLAGS: Mapping[str, Old] = {
    **dict.fromkeys(
        (
            *("input_perturbation", "max_train_samples", "cache_dir", "hub_model_id", "hub_token", "prediction_type"),
            *("noise_offset",),
        ),
        _DEAD,
    ),
    **dict.fromkeys(
        ("random_flip", "use_ema", "push_to_hub", "snr_loss"), Old(fate="dead", switch=True, why=_DEAD.why)
    ),
}
_DISTILL: Mapping[str, Old] = {
    "learning_rate_critic": Old("method.critic_lr", default="1e-4"),
    "gen_update_interval": Old("method.generator_every", default="5", why="counted in optimizer steps"),
    "real_guidance_scale": Old("method.real_guidance", by="guidance", default="6.0"),
    "fake_guidance_scale": Old("method.fake_guidance", by="guidance", default="0.0", why="0 there is 1 here: none"),
    "denoising_step_indices_list": Old("method.denoising_steps", by="list", many=True, default="1000 750 500 250"),
    "negative_prompt": Old("method.negative_prompt", by="text", why="does nothing there: a Chinese one is built in"),
    "motion_sub_loss": Old(fate="dead", switch=True, why=_DEAD.why),
    "motion_sub_loss_ratio": _DEAD,
}
_PLAIN: Mapping[str, Old] = {
    "motion_sub_loss": Old(switch=True, why="a share of the loss for changes between latent frames"),
    "motion_sub_loss_ratio": Old(default="0.25", why="with --motion_sub_loss alone"),
    "noise_share_in_frames": Old(fate="dead", switch=True, why=_DEAD.why),
    "noise_share_in_frames_ratio": _DEAD,
    **WEIGHTING,
}
_SETTINGS = {
    **_MODEL,
    **LOADER,
    **VIDEOX,
    **_ADAPTER,
    **OPTIMIZER,
    **SCHEDULE,
    **_SHARED_FLAGS,
    **RUN,
    **_DEAD_FLAGS,
}
_SHIFT = Given({_BASE: r"~(?i)Wan2\.1-(T2V-1\.3B|I2V-14B-480P)"}, {"noise.shift": 5.0}, "that of its configuration")
_HIGH = tuple(
    Given({_BASE: rf"~(?i)Wan2\.2-{task.upper()}-A14B", "boundary_type": "high"}, {"model.variant": f"2.2-{task}-high"})
    for task in ("t2v", "i2v")
)
_FITS = (
    Given(
        {_BASE: "~(?i)A14B", "boundary_type": "full"},
        why="boundary_type=full is of models with one denoiser; of two it trained the low expert on all noise levels",
        refuse="say low or high; both in one run: --model wan/2.2-t2v-a14b or wan/2.2-i2v-a14b, without it",
    ),
    Given(
        {_BASE: "~(?i)(-I2V-)", "train_mode": "~^(?!i2v$)"},
        why="this base starts from pictures, and train_mode is another",
        refuse="say --train_mode=i2v, or name a T2V base",
    ),
    Given(
        {_BASE: "~(?i)(-T2V-)", "train_mode": "~^(?!normal$)"},
        why="this base takes no pictures, and train_mode wants some",
        refuse="say --train_mode=normal, or name an I2V base",
    ),
    Given(
        {_BASE: "~(?i)(-TI2V-)", "train_mode": "i2v"},
        why="this base takes a picture as its first frame, which is train_mode=ti2v",
        refuse="say --train_mode=ti2v",
    ),
    Given(
        {_BASE: "~(?i)(-TI2V-)", "train_mode": "normal"},
        {"model.image_dropout": 0.99},
        "no clip is given its picture there, here one in a hundred",
    ),
    Given(
        {_BASE: r"~(?i)(-TI2V-|Wan2\.1)", "boundary_type": "low"},
        why="leaves the noisiest times out there though there is one denoiser for all; here all are trained",
    ),
    Given(
        {_BASE: r"~(?i)(-TI2V-|Wan2\.1)", "boundary_type": "high"},
        why="boundary_type=high trains the noisiest times alone, of a model with one denoiser for all",
        refuse="say --boundary_type=full; the noisiest times alone: --set noise.t_min=0.9",
    ),
)
_NEVER_SET = Given(
    {"use_peft_lora": "unset", "target_name": "unset"},
    {"lora.targets": "all-linears"},
    "every linear module, as without --target_name",
)
_SUBSTRINGS = Given(
    {"use_peft_lora": "unset", "target_name": "set"},
    why="without --use_peft_lora it matched parts of names, so that k took in every module of the blocks",
)
_SHAPES = (
    Given(
        {"training_with_video_token_length": "set", "random_hw_adapt": "unset"},
        {"data.videox.training_with_video_token_length": None},
        "does nothing there without --random_hw_adapt",
    ),
    Given({"enable_bucket": "unset"}, {"data.buckets": "single"}, "without --enable_bucket all clips become squares"),
    Given(
        {"fix_sample_size": "set"},
        {"data.buckets": "single"},
        "clips were pressed into these proportions there; here they are cropped (data.crop)",
    ),
)
_CLIPS = (
    Given({}, {"data.fps": "source"}, "its loader counts frames and does not look at their rate"),
    Given({}, {"data.clip": "random"}, "a drawn stretch of each video"),
    Given({}, {"data.num_variants": 4}, "stretches and sizes kept of each clip, where it draws anew in every epoch"),
    Given({}, {"data.upscale": True}, "its loader enlarges small clips"),
    Given({}, {"data.source.0.reader": "easyanimate"}, "rows of file_path, text, type"),
    Given({}, {"model.text_dropout": 0.1}, "a constant there: one caption in ten is left out"),
)
_UNSEEN = {
    **dict.fromkeys(
        ("data.fps", "data.stride", "data.clip", "data.upscale", "data.source.0.media_root", "data.source.0.reader")
    ),
    "data.source.0.video_repeats": None,
}
_OF_DISTILL = (
    Given({}, {"method.name": "distill"}, "what the script is for"),
    Given(
        {"denoising_step_indices_list": "set"}, why="set at all, it stops the script: its numbers are taken for words"
    ),
    Given(
        {"train_mode": "normal"},
        {"data.show": "captions", "data.buckets": "grid", "model.text_dropout": 0.0, **_UNSEEN},
        "of normal it reads texts alone, and drops none; sizes are drawn from all of the area",
    ),
    Given(
        {"train_mode": "normal", _BASE: "~(?i)A14B", "boundary_type": "low"},
        {"method.compat": "videox"},
        "the low expert alone draws from pure noise, as there; with clips to begin from it would keep to its levels",
    ),
    Given(
        {"train_mode": "~i2v", "boundary_type": "low", _BASE: "~(?i)A14B"},
        {"data.show": "clips"},
        "the low expert begins from noised clips, its own levels; there from pure noise (method.compat = 'videox')",
    ),
)
_PICTURES = {
    "data.show": "pictures",
    "data.buckets": "grid",
    "data.fps": None,
    "data.stride": None,
}
_NOT_LOW: tuple[Mapping[str, str], ...] = (
    {"train_mode": "~i2v", _BASE: "~(?i)A14B", "boundary_type": "high"},
    {"train_mode": "~i2v", _BASE: "~(?i)^(?!.*A14B)"},
)
"""Where the denoiser that learns begins from pure noise, so that no clips are needed."""
_OF_PICTURES = tuple(
    Given(settings, _PICTURES, "of each clip it looks at the first frame alone; sizes come from the picture")
    for settings in _NOT_LOW
)
_SIZES = (
    Joint(("video_sample_size",), "data.size", by="square", why="the square of clips", when={"enable_bucket": "unset"}),
    Joint(("fix_sample_size",), "data.size", by="pair"),
)
_AREAS = tuple(
    Joint(("video_sample_size",), "data.size", by="square", why="the area of what is drawn", when=settings)
    for settings in (one | {"fix_sample_size": "unset"} for one in (*_NOT_LOW, {"train_mode": "normal"}))
)
_BETAS = Joint(("adam_beta1", "adam_beta2"), "train.betas", always=True)
_NOTES = (
    "Its files do not say their strength, alpha / rank: readers take them at 1. Those from here say it.",
    "Without DeepSpeed its adapters are bf16, in which small steps vanish; here they and the optimizer are fp32.",
    "With DeepSpeed ZeRO-2 it never clips gradients; train.clip_norm always holds.",
    "It draws latents wider than its autoencoder says; model.vae_compat = 'videox' does so, too.",
    "One clip in twenty is kept apart for the held-out loss, which it has not; data.held_out = 0 trains on all.",
    "It keeps all checkpoints; here the last three and the best (train.keep_last, train.keep_every_steps).",
)
_DISTILLED = Dialect(
    name="videox-distill",
    title="VideoX-Fun's train_distill_lora.py",
    scripts=("scripts/wan2.2/train_distill_lora.py", "scripts/wan2.1/train_distill_lora.py"),
    settings={**_SETTINGS, **_DISTILL},
    joint=(_BETAS, *_SIZES, *_AREAS),
    given=(*_HIGH, _SHIFT, *UNSAID, *_CLIPS, *_SHAPES, _NEVER_SET, _SUBSTRINGS, *_OF_DISTILL, *_OF_PICTURES, *_FITS),
    always={"model.family": "wan"},
    notes=(
        *_NOTES,
        "Three copies of the base lie in memory there; here one, with two adapters.",
        "Its generator never learns with an accumulation that --gen_update_interval divides; here turns are steps.",
        "The critic's rate has no schedule there, whatever --lr_scheduler says; here method.critic_schedule.",
        "What guidance leads away from is a Chinese sentence built in there; here method.negative_prompt, or nothing.",
    ),
)
_TRAINED = Dialect(
    name="videox-wan",
    title="VideoX-Fun's train_lora.py for Wan",
    scripts=("scripts/wan2.2/train_lora.py", "scripts/wan2.1/train_lora.py"),
    settings={**_SETTINGS, **_PLAIN},
    joint=(
        _BETAS,
        *_SIZES,
        Joint(("motion_sub_loss", "motion_sub_loss_ratio"), "method.motion_loss", by="if_set"),
    ),
    given=(
        *_HIGH,
        _SHIFT,
        *UNSAID,
        *_CLIPS,
        Given({}, {"noise.max_error": 50.0}, "a constant there: larger errors of single elements count as none"),
        *_SHAPES,
        _NEVER_SET,
        _SUBSTRINGS,
        Given(
            {_BASE: "~(?i)A14B", "uniform_sampling": "unset"},
            why="without --uniform_sampling it trains an expert on all noise levels; here on its own alone",
        ),
        *_FITS,
    ),
    always={"model.family": "wan"},
    notes=_NOTES,
)
DIALECTS: tuple[Dialect, ...] = (_DISTILLED, _TRAINED)
