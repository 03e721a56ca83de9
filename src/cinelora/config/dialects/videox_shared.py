"""Owns the rows that EasyAnimate's and VideoX-Fun's trainers share: loader, buckets, optimizer, run. Data alone.

Sources: the scripts' argument parsers; what differs is in the table of each.
"""

from collections.abc import Mapping

from cinelora.config.importing.dialect import Given, Old

NOT_THERE = {
    "cache": "not needed: each clip and caption is encoded once, into the cache; no encoder is in memory after that",
    "weights": "put the file into the base's folder, or name the base it makes: it would load what fits and pass over "
    "the rest",
}

LOADER: Mapping[str, Old] = {
    "train_data_dir": Old(
        "data.source.0.media_root",
        by="text",
        words={"": {"data.source.0.media_root": "."}},
        default=".",
        why="where each row's file_path starts, and stays below",
    ),
    "train_data_meta": Old("data.source.0.path", by="text"),
    "video_repeat": Old("data.source.0.video_repeats", by="count", default="0"),
    "video_sample_n_frames": Old("data.frames", by="one", default="17", why="the longest clip"),
    "video_sample_stride": Old("data.stride", default="4", why="every how many-th frame of the source"),
    "train_batch_size": Old("train.micro_size", default="16"),
    "vae_mini_batch": Old(fate="elsewhere", why=NOT_THERE["cache"]),
    "dataloader_num_workers": Old(fate="elsewhere", why=NOT_THERE["cache"]),
    "low_vram": Old(fate="elsewhere", switch=True, why=NOT_THERE["cache"]),
}
VIDEOX: Mapping[str, Old] = {
    "enable_bucket": Old(switch=True, words={"set": {"data.buckets": "videox"}, "unset": {}}),
    "image_sample_size": Old("data.videox.image_sample_size", default="512", why="side of the square of pictures"),
    "video_sample_size": Old("data.videox.video_sample_size", default="512", why="side of the square of videos"),
    "token_sample_size": Old("data.videox.token_sample_size", why="the token budget, with the longest clip"),
    **{
        name: Old(f"data.videox.{name}", by="flag", switch=True)
        for name in (
            *("random_hw_adapt", "random_ratio_crop", "random_frame_crop"),
            *("training_with_video_token_length", "keep_all_node_same_token_length"),
        )
    },
}
WEIGHTING: Mapping[str, Old] = {
    "weighting_scheme": Old(
        words={
            "none": {},
            "sigma_sqrt": {"noise.weighting": "sigma_sqrt", "noise.t_min": 0.001},
            "cosmap": {"noise.weighting": "cosmap"},
            "logit_normal": {"noise.timesteps": "logit_normal"},
            "mode": {"noise.timesteps": "mode"},
        },
        why="of flow alone; logit_normal and mode say which times are drawn, the others how much each counts",
    ),
    "logit_mean": Old("noise.logit_mean", why="of weighting_scheme=logit_normal alone"),
    "logit_std": Old("noise.logit_std", why="of weighting_scheme=logit_normal alone"),
    "mode_scale": Old("noise.mode_scale", why="of weighting_scheme=mode alone"),
}
OPTIMIZER: Mapping[str, Old] = {
    "gradient_accumulation_steps": Old("train.accumulation", default="1"),
    "gradient_checkpointing": Old("train.gradient_checkpointing", by="flag", switch=True, default="unset"),
    "learning_rate": Old("train.lr", default="1e-4"),
    "scale_lr": Old(
        fate="impossible",
        switch=True,
        default="unset",
        why="remove it, and multiply --learning_rate by GPUs, accumulation and batch size yourself",
    ),
    "use_8bit_adam": Old(switch=True, words={"set": {"train.optimizer": "adamw_8bit"}, "unset": {}}),
    "use_came": Old(fate="impossible", switch=True, default="unset", why="remove it: CAME is not here, AdamW is"),
    "adam_beta1": Old(default="0.9"),
    "adam_beta2": Old(default="0.999"),
    "adam_weight_decay": Old("train.weight_decay", default="1e-2"),
    "adam_epsilon": Old("train.eps", default="1e-8"),
    "max_grad_norm": Old("train.clip_norm", default="1.0"),
    "mixed_precision": Old(
        words={
            "no": {"train.precision": "fp32", "model.dtype": "fp32"},
            "fp16": {"train.precision": "fp16", "model.dtype": "fp16"},
            "bf16": {"train.precision": "bf16", "model.dtype": "bf16"},
        },
        default="no",
        why="of the forward pass and of the frozen base; adapters and the optimizer are fp32",
    ),
    "allow_tf32": Old(
        fate="elsewhere", switch=True, why="TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 before the launch line does it"
    ),
}
SCHEDULE: Mapping[str, Old] = {
    "num_train_epochs": Old(
        "train.epochs", by="quarter", default="100", why="a pass here goes over four variants of each clip"
    ),
    "max_train_steps": Old("train.steps"),
    "lr_scheduler": Old(
        words={
            "constant": {"train.schedule": "constant"},
            "constant_with_warmup": {"train.schedule": "constant"},
            "linear": {"train.schedule": "linear"},
            "cosine": {"train.schedule": "cosine"},
            "cosine_with_restarts": {"train.schedule": "cosine_restarts", "train.num_cycles": 1},
            "polynomial": {"train.schedule": "polynomial", "train.power": 1.0},
        },
        default="constant",
    ),
    "lr_warmup_steps": Old("train.warmup_steps", default="500", why="optimizer steps"),
}
RUN: Mapping[str, Old] = {
    "seed": Old("train.seed"),
    "output_dir": Old("run.folder", by="text", default="sd-model-finetuned"),
    "logging_dir": Old(fate="elsewhere", why="all of a run is in its folder"),
    "tracker_project_name": Old(fate="elsewhere", why="trackers are given the run's own name"),
    "report_to": Old(
        words={
            "tensorboard": {"report.trackers": ["tensorboard"]},
            "wandb": {"report.trackers": ["wandb"]},
            "all": {"report.trackers": ["tensorboard", "wandb"]},
            "none": {},
        },
        why="the run's own page is written besides",
    ),
    "checkpointing_steps": Old("train.save_every_steps", default="500"),
    "checkpoints_total_limit": Old("train.keep_last", why="it fails there once a .safetensors checkpoint lies there"),
    "resume_from_checkpoint": Old(
        fate="elsewhere",
        why="`cinelora train --resume RUN`, of runs from here; the old program's cannot be gone on with",
    ),
    "save_state": Old(fate="always", switch=True, why="every checkpoint is whole"),
    "validation_prompts": Old("preview.prompts", by="texts", many=True),
    "validation_epochs": Old("preview.every_epochs", by="quarter", default="5", why="a pass goes over four variants"),
    "validation_steps": Old("preview.every_steps", default="2000"),
    "local_rank": Old(fate="elsewhere", why="the launcher says it"),
    "use_deepspeed": Old(fate="elsewhere", switch=True, why="the launcher says it"),
}
UNSAID = (
    Given(
        {"video_repeat": "0"},
        {"data.source.0.video_repeats": 1},
        "0, its default, leaves every video out there; here each counts once",
    ),
    Given({"seed": "unset"}, {"train.seed": 42}, "without one the script stops"),
    Given({"max_train_steps": "set"}, {"train.epochs": None}, "--max_train_steps is set, which wins"),
    Given({"lr_scheduler": "constant"}, {"train.warmup_steps": None}, "its constant has no warm-up"),
)
"""What follows from what is not said, and from what takes the place of another."""
