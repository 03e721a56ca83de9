"""Owns the tables of EasyAnimate's scripts/train_lora.py, and of train_t2iv_lora.py, its name until v3. Data alone.

Sources: the scripts' argument parsers, data loading and training step (aigc-apps/EasyAnimate, commit c2a70d1; of v2 and
v3 fb0916f, f9eeabe), and what running them showed.
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
_PUBLISHED = {
    r"V5\.1-12b-zh-InP": "v5.1-12b-inp",
    r"V5\.1-12b-zh-Control": "v5.1-12b-control",
    r"V5\.1-12b-zh": "v5.1-12b",
    r"V5\.1-7b-zh-InP": "v5.1-7b-inp",
    r"V5\.1-7b-zh-Control": "v5.1-7b-control",
    r"V5\.1-7b-zh": "v5.1-7b",
    r"V5-12b-zh-InP": "v5-12b-inp",
    r"V5-12b-zh-Control": "v5-12b-control",
    r"V5-12b-zh": "v5-12b",
    r"V5-7b-zh-InP": "v5-7b-inp",
    r"V5-7b-zh": "v5-7b",
    r"V4-XL-2-InP": "v4-inp",
    r"V3-XL-2-InP-512x512": "v3-512-inp",
    r"V3-XL-2-InP-768x768": "v3-768-inp",
    r"V3-XL-2-InP-960x960": "v3-960-inp",
    r"V2-XL-2-512x512": "v2-512",
    r"V2-XL-2-768x768": "v2-768",
}
_MODEL: Mapping[str, Old] = {
    _BASE: Old(
        "model.base",
        by="text",
        patterns=tuple((f"(?i)EasyAnimate{name}", {"model.variant": variant}) for name, variant in _PUBLISHED.items()),
        why="its name says which variant it is",
    ),
    "config_path": Old(fate="elsewhere", why="networks and sizes are the variant's own"),
    "revision": Old(why="behind the base's name"),
    "variant": Old(why="behind the base's name: the kind of files"),
    "non_ema_revision": _DEAD,
    "transformer_path": Old(fate="impossible", why=NOT_THERE["weights"]),
    "vae_path": Old(fate="impossible", why=NOT_THERE["weights"]),
    "tokenizer_max_length": Old(fate="always", why="the variant's own: 256, and 120 of v2"),
}
_XFORMERS = {
    "enable_xformers_memory_efficient_attention": Old(
        fate="elsewhere", switch=True, why="not needed: torch's own attention"
    )
}
_MODE = Old(
    words={"normal": {}, "inpaint": {}},
    default="normal",
    why="the variant says it: names that end in -inp are of inpaint weights",
)
_ADAPTER: Mapping[str, Old] = {
    "rank": Old("lora.rank", default="128"),
    "network_alpha": Old("lora.alpha", by="count", default="64"),
    "train_text_encoder": Old(fate="dead", switch=True, why="prompts are encoded without gradients, so nothing learns"),
}
_LOSS: Mapping[str, Old] = {
    "loss_type": Old(
        words={
            "sigma": {"noise.kind": "sigma"},
            "ddpm": {"noise.kind": "ddpm", "noise.max_error": 50.0},
            "flow": {"noise.kind": "flow", "noise.max_error": 50.0},
        },
        default="sigma",
        why="errors of single elements above 50 count as none, but for sigma",
    ),
    "uniform_sampling": Old("noise.stratified", by="flag", switch=True, default="unset"),
    "noise_share_in_frames": Old(switch=True, why="each latent frame has a share of its noise from the one before"),
    "noise_share_in_frames_ratio": Old(default="0.5", why="with --noise_share_in_frames alone"),
    "motion_sub_loss": Old(switch=True, why="a share of the loss for changes between latent frames"),
    "motion_sub_loss_ratio": Old(default="0.25", why="with --motion_sub_loss alone"),
    **WEIGHTING,
}
_SIGMA: Mapping[str, Old] = {
    "snr_loss": Old(switch=True, words={"set": {"noise.snr_loss": True}, "unset": {}}, why="of sigma alone"),
    "train_sampling_steps": Old("noise.num_levels", why="of sigma alone; ddpm has 1000 levels, flow any time between"),
}
_DEAD_FLAGS: Mapping[str, Old] = {
    **dict.fromkeys(
        (
            *("input_perturbation", "max_train_samples", "cache_dir", "hub_model_id", "hub_token", "prediction_type"),
            *("noise_offset", "image_repeat_in_forward"),
        ),
        _DEAD,
    ),
    **dict.fromkeys(("random_flip", "use_ema", "push_to_hub"), Old(fate="dead", switch=True, why=_DEAD.why)),
}
_NEWER: Mapping[str, Old] = {
    "enable_text_encoder_in_dataloader": Old(fate="elsewhere", switch=True, why=NOT_THERE["cache"]),
    "multi_stream": Old(fate="elsewhere", switch=True, why=NOT_THERE["cache"]),
    "report_model_info": Old(fate="always", switch=True, why="the norm of the gradient is in the report"),
    "abnormal_norm_clip_start": Old(
        "train.clip_norm_start_steps", by="count", default="1000", why="steps over which the limit falls"
    ),
    "initial_grad_norm_ratio": Old(
        "train.clip_norm_start_ratio", by="count", default="5", why="how many times --max_grad_norm it is at first"
    ),
}
_T2IV_VIDEOX = {name: old for name, old in VIDEOX.items() if name not in (
    "token_sample_size", "random_hw_adapt", "training_with_video_token_length", "keep_all_node_same_token_length",
)}  # fmt: skip

_VERSIONS = {"v5.1": r"V5\.1", "v5": r"V5-", "v4": "V4", "v3": "V3", "v2": "V2"}
_CONFIGS = {"v5.1": r"_v5\.1_", "v5": "_v5_", "v4": "_v4_", "v3": "_v3_", "v2": "_v2_"}
_OTHER_VERSION = tuple(
    Given(
        {"config_path": f"~{_CONFIGS[version]}", _BASE: f"~EasyAnimateV(?!{name[1:]})"},
        why="the configuration is of another version than the base",
        refuse=f"name the base or the configuration of {version}: which of the two is meant?",
    )
    for version, name in _VERSIONS.items()
)
_WRONG_MODE = (
    Given(
        {"train_mode": "normal", _BASE: "~-InP"},
        why="weights of a name in -InP are those of train_mode=inpaint; normal cut their first convolution",
        refuse="add --train_mode=inpaint, which draws from captions, too, or name the base without -InP",
    ),
    Given(
        {"train_mode": "inpaint", _BASE: "~EasyAnimateV(?!.*-(InP|Control))"},
        why="train_mode=inpaint wants weights of a name in -InP; the script put zeros into the first convolution",
        refuse="name the base in -InP, or say --train_mode=normal",
    ),
)
_LOSSES = {"flow": r"EasyAnimateV5\.1", "ddpm": "EasyAnimateV(5-|4)", "sigma": "EasyAnimateV(3|2)"}
_WRONG_LOSS = tuple(
    Given(
        {_BASE: f"~{base}", "loss_type": f"~^(?!{kind}$)"},
        why=f"this base was trained with loss_type={kind}",
        refuse=f"say --loss_type={kind}",
    )
    for kind, base in _LOSSES.items()
)
_CONSTANTS = (
    Given({}, {"model.text_dropout": 0.1}, "a constant there: one caption in ten is left out"),
    Given({}, {"data.compat": "easyanimate"}, "frames and pixels as its loader takes them"),
    Given({}, {"data.fps": "source"}, "its loader counts frames and does not look at their rate"),
    Given({}, {"data.clip": "random"}, "a drawn stretch out of the first nine tenths of each video"),
    Given({}, {"data.num_variants": 4}, "stretches and sizes kept of each clip, where it draws anew in every epoch"),
    Given({}, {"data.source.0.reader": "easyanimate"}, "rows of file_path, text, type"),
    Given({}, {"lora.targets": "all-linears"}, "every linear module, those around the blocks, too"),
    Given({}, {"lora.files": ["videox", "diffusers"]}, "what EasyAnimate merges, and PEFT's spelling"),
)
_SHAPES = (
    Given(
        {"enable_bucket": "unset"},
        {"data.buckets": "single"},
        "without --enable_bucket all clips are cropped to a square",
    ),
    Given(
        {"training_with_video_token_length": "set"},
        {"data.videox.auto_tile_batch_size": True},
        "without a flag there: clips far below the token budget stand in a step 2 or 4 times",
    ),
    Given(
        {"training_with_video_token_length": "set", "random_hw_adapt": "unset"},
        {"data.videox.training_with_video_token_length": None},
        "does nothing there without --random_hw_adapt",
    ),
)
_SQUARE = Joint(
    ("video_sample_size",), "data.size", by="square", when={"enable_bucket": "unset"}, why="the square of clips"
)
_HUB = Joint((_BASE, "revision", "variant"), "model.base", by="hub_base", why="its name says which variant it is")
_BETAS = Joint(("adam_beta1", "adam_beta2"), "train.betas", always=True)

_NOTES = (
    "Without DeepSpeed its GPUs do not share gradients: each trains an adapter of its own, and the first is saved.",
    "With DeepSpeed it never clips gradients; train.clip_norm always holds.",
    "Clips that cannot be read are replaced there by others; here they are listed before anything starts.",
    "One clip in twenty is kept apart for the held-out loss, which it has not; data.held_out = 0 trains on all.",
    "It keeps all checkpoints; here the last three and the best (train.keep_last, train.keep_every_steps).",
)
_MAIN = Dialect(
    name="easyanimate",
    title="EasyAnimate's train_lora.py",
    scripts=("scripts/train_lora.py",),
    settings={
        **_MODEL,
        "train_mode": _MODE,
        **LOADER,
        **VIDEOX,
        **_ADAPTER,
        **_LOSS,
        **_SIGMA,
        **OPTIMIZER,
        **_XFORMERS,
        **SCHEDULE,
        **_NEWER,
        **RUN,
        **_DEAD_FLAGS,
    },
    joint=(
        _HUB,
        _BETAS,
        _SQUARE,
        Joint(("noise_share_in_frames", "noise_share_in_frames_ratio"), "noise.frame_share", by="if_set"),
        Joint(("motion_sub_loss", "motion_sub_loss_ratio"), "method.motion_loss", by="if_set"),
    ),
    given=(
        *_CONSTANTS,
        *_SHAPES,
        Given(
            {"uniform_sampling": "set", "loss_type": "flow"},
            why="does nothing there with flow, whose times all GPUs draw alike; here times are spread over all clips",
        ),
        *UNSAID,
        *_OTHER_VERSION,
        *_WRONG_MODE,
        *_WRONG_LOSS,
    ),
    always={"model.family": "easyanimate"},
    notes=(
        *_NOTES,
        "Of v3 and v2 (loss_type=sigma) its last version fails in the first step; here they train.",
    ),
)
_OLDER = Dialect(
    name="easyanimate-t2iv",
    title="EasyAnimate's train_t2iv_lora.py",
    scripts=("scripts/train_t2iv_lora.py",),
    settings={
        **_MODEL,
        "train_mode": _MODE,
        **LOADER,
        **_T2IV_VIDEOX,
        **_ADAPTER,
        "not_sigma_loss": Old(fate="impossible", switch=True, default="unset", why="v2 and v3 predict noise (sigma)"),
        **_SIGMA,
        **OPTIMIZER,
        **_XFORMERS,
        **SCHEDULE,
        **RUN,
        **_DEAD_FLAGS,
    },
    joint=(_HUB, _BETAS, _SQUARE),
    given=(
        *_CONSTANTS,
        _SHAPES[0],
        Given({}, {"noise.kind": "sigma"}, "the only process of this script"),
        Given({}, {"noise.stratified": False}, "this script draws each clip's time by itself"),
        *UNSAID,
        *_OTHER_VERSION,
        *_WRONG_MODE,
        Given(
            {_BASE: "~EasyAnimateV[45]"},
            why="this script is of v2 and v3",
            refuse="v4 and later are trained by scripts/train_lora.py",
        ),
    ),
    always={"model.family": "easyanimate"},
    notes=_NOTES,
)
DIALECTS: tuple[Dialect, ...] = (_MAIN, _OLDER)
