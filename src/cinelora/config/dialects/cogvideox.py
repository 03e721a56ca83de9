"""Owns the tables of diffusers' CogVideoX example scripts: text-to-video and image-to-video. Data alone.

Sources: examples/cogvideo of diffusers (argument parsers, dataset, training step, validation) and what running them on
small networks showed.
"""

from cinelora.config.importing.dialect import Dialect, Given, Joint, Old

_BASE = "pretrained_model_name_or_path"
_CACHED = "not needed: clips are encoded once into the cache, without loader processes"
_SCHEDULES = {
    "constant": {"train.schedule": "constant"},
    "constant_with_warmup": {"train.schedule": "constant"},
    "linear": {"train.schedule": "linear"},
    "cosine": {"train.schedule": "cosine"},
    "cosine_with_restarts": {"train.schedule": "cosine_restarts"},
    "polynomial": {"train.schedule": "polynomial"},
}
_PRECISIONS = {
    "no": {"train.precision": "fp32", "model.dtype": "fp32"},
    "fp16": {"train.precision": "fp16", "model.dtype": "fp16"},
    "bf16": {"train.precision": "bf16", "model.dtype": "bf16"},
}
_TRACKERS = {
    "tensorboard": {"report.trackers": ["tensorboard"]},
    "wandb": {"report.trackers": ["wandb"]},
    "all": {"report.trackers": ["tensorboard", "wandb"]},
}

_DATA = {
    "dataset_name": Old(why="a folder with a table, or a dataset on the Hub"),
    "dataset_config_name": Old(
        fate="impossible", why="remove it: datasets of the Hub are read in their one configuration"
    ),
    "instance_data_root": Old(why="videos' paths start here"),
    "video_column": Old(
        "data.source.0.path_column", by="text", default="video", why="of the table, or the file of paths"
    ),
    "caption_column": Old(
        "data.source.0.caption_column", by="text", default="text", why="of the table, or the file of captions"
    ),
    "id_token": Old(
        "data.source.0.caption_prefix",
        by="text",
        why="put before every caption, here with the space that the script forgets",
    ),
    "dataloader_num_workers": Old(fate="elsewhere", why=_CACHED),
    "height": Old(default="480"),
    "width": Old(default="720"),
    "fps": Old("data.fps", why="the script read this and took frames as they came; here clips are resampled to it"),
    "max_num_frames": Old(
        "data.frames",
        by="frames",
        default="49",
        why="cut to 4k + 1 as there; frames follow their timestamps, where the script's stride jumped with the length",
    ),
    "skip_frames_start": Old("data.skip_frames_start", default="0"),
    "skip_frames_end": Old("data.skip_frames_end", default="0"),
    "random_flip": Old(fate="dead", switch=True, why="the script read this and flipped nothing"),
}

_VALIDATION = {
    "validation_prompt": Old(why="one preview for each"),
    "validation_prompt_separator": Old(default=":::", why="parts validation_prompt"),
    "num_validation_videos": Old("preview.num_seeds", default="1", why="of each prompt"),
    "validation_epochs": Old(
        "preview.every_epochs", default="50", why="videos were kept by wandb alone, here as mp4 in the run's folder"
    ),
    "guidance_scale": Old("preview.guidance", default="6"),
    "use_dynamic_cfg": Old(
        words={
            "set": {"preview.guidance_schedule": "cosine"},
            "unset": {"preview.guidance_schedule": "constant"},
        },
        default="unset",
        switch=True,
        why="guidance that changes over the steps",
    ),
}

_TRAINING = {
    "seed": Old("train.seed", why="of the data's order, crops, noise and times"),
    "rank": Old("lora.rank", default="128"),
    "lora_alpha": Old(
        "lora.alpha",
        default="128",
        why="files from here say their strength; the script's did not and had to be loaded with alpha / rank by hand",
    ),
    "mixed_precision": Old(
        words=_PRECISIONS,
        why="of the forward pass and of the base; adapters are fp32, where the script learned in pure bf16 under bf16",
    ),
    "output_dir": Old("run.folder", by="text"),
    "train_batch_size": Old("train.micro_size", default="4"),
    "num_train_epochs": Old("train.epochs", default="1"),
    "max_train_steps": Old("train.steps", why="wins over num_train_epochs"),
    "checkpointing_steps": Old("train.save_every_steps", default="500"),
    "checkpoints_total_limit": Old("train.keep_last", why="the script kept all unless this was set"),
    "resume_from_checkpoint": Old(
        fate="elsewhere",
        why="`cinelora train --resume RUN`; the script began the epoch again, and afresh where it found nothing",
    ),
    "gradient_accumulation_steps": Old("train.accumulation", default="1"),
    "gradient_checkpointing": Old("train.gradient_checkpointing", by="flag", default="unset", switch=True),
    "learning_rate": Old("train.lr", default="1e-4"),
    "scale_lr": Old(
        fate="impossible",
        switch=True,
        why="multiply learning_rate yourself by accumulation, batch size and number of GPUs",
    ),
    "lr_scheduler": Old(words=_SCHEDULES, default="constant"),
    "lr_warmup_steps": Old("train.warmup_steps", default="500", why="optimizer steps"),
    "lr_num_cycles": Old("train.num_cycles", default="1", why="of cosine_with_restarts alone"),
    "lr_power": Old("train.power", default="1.0", why="of polynomial alone"),
    "enable_slicing": Old(fate="always", switch=True, why="clips are encoded one by one"),
    "enable_tiling": Old(switch=True, words={"set": {"memory.vae_tiling": "on"}, "unset": {}}),
}

_OPTIMIZER = {
    "optimizer": Old(
        words={
            "adam": {"train.optimizer": "adam"},
            "adamw": {"train.optimizer": "adamw"},
            "prodigy": {"train.optimizer": "prodigy"},
        },
        default="adam",
    ),
    "use_8bit_adam": Old(switch=True, why="adam or adamw with their state in 8 bits; nothing to prodigy"),
    "adam_beta1": Old(default="0.9"),
    "adam_beta2": Old(default="0.95"),
    "adam_weight_decay": Old("train.weight_decay", default="1e-4", why="through the gradient under adam, as there"),
    "adam_epsilon": Old("train.eps", default="1e-8"),
    "max_grad_norm": Old("train.clip_norm", default="1.0"),
    "prodigy_beta3": Old("train.prodigy_beta3"),
    "prodigy_decouple": Old("train.prodigy_decoupled", by="flag", default="unset", switch=True),
    "prodigy_use_bias_correction": Old("train.prodigy_bias_correction", by="flag", default="unset", switch=True),
    "prodigy_safeguard_warmup": Old("train.prodigy_safeguard_warmup", by="flag", default="unset", switch=True),
}

_OTHER = {
    "revision": Old(why="of the base"),
    "variant": Old(why="kind of the base's files, such as fp16"),
    "cache_dir": Old(
        fate="elsewhere",
        why="the environment's HF_HOME says where downloads lie; the script gave this to the dataset alone",
    ),
    "tracker_name": Old(fate="elsewhere", why="trackers are given the run's own name"),
    "push_to_hub": Old(
        fate="elsewhere",
        switch=True,
        why="report.hub pushes at the end, `cinelora push RUN OWNER/NAME` later; the script crashed here once it had "
        "drawn validation videos",
    ),
    "hub_token": Old(fate="elsewhere", why="`hf auth login`; the script compared this with wandb and did not use it"),
    "hub_model_id": Old("report.hub", by="text", why="OWNER/NAME"),
    "logging_dir": Old(fate="elsewhere", why="all of a run is in its folder"),
    "allow_tf32": Old(fate="elsewhere", switch=True, why="no setting: the forward pass is in train.precision"),
    "report_to": Old(words=_TRACKERS, why="the run's own page is written besides"),
}

_SETTINGS = {**_OTHER, **_DATA, **_VALIDATION, **_TRAINING, **_OPTIMIZER}

_JOINT = (
    Joint((_BASE, "revision", "variant"), "model.base", by="hub_base"),
    Joint(("height", "width"), "data.size", by="numbers", why="every clip in this size"),
    Joint(("instance_data_root",), "data.source.0.path", by="text", when={"dataset_name": "unset"}),
    Joint(("dataset_name",), "data.source.0.path", by="hub_or_folder", when={"dataset_name": "set"}),
    Joint(("instance_data_root",), "data.source.0.media_root", by="text", when={"dataset_name": "set"}),
    Joint(("adam_beta1", "adam_beta2"), "train.betas", by="numbers"),
    Joint(("validation_prompt", "validation_prompt_separator"), "preview.prompts", by="split"),
    Joint(("seed",), "preview.seed", by="same", why="first of the previews' seeds"),
)

_GIVEN = (
    Given({}, {"model.text_dropout": 0.0}, why="the script dropped no caption; 0.1 keeps guidance working"),
    Given({}, {"data.buckets": "single", "data.upscale": True}, why="every clip is brought to the one size, as there"),
    Given({}, {"preview.sampler": "dpm-sde"}, why="the script's own, whatever the base's"),
    Given({"dataset_name": "unset"}, {"data.source.0.reader": "prompts"}, why="two files, line by line"),
    Given({"max_train_steps": "set"}, {"train.epochs": None}, why="max_train_steps wins"),
    Given({"optimizer": "adam", "use_8bit_adam": "set"}, {"train.optimizer": "adam_8bit"}),
    Given({"optimizer": "adamw", "use_8bit_adam": "set"}, {"train.optimizer": "adamw_8bit"}),
    Given(
        {"lr_scheduler": "constant"}, {"train.warmup_steps": None}, why="diffusers' constant schedule has no warm-up"
    ),
    Given({"push_to_hub": "unset"}, {"report.hub": None}, why="hub_model_id does nothing without push_to_hub"),
)

_ALWAYS = {
    "model.family": "cogvideox",
    "lora.targets": "attention",
}

_NOTES = (
    "The script took every n-th frame, with n jumping from 1 to 2 as clips grow by one frame; here frames follow their "
    "timestamps at data.fps (data.compat has the script's own frames).",
    "The script encoded all clips anew at each start and kept them in memory; here they are cached.",
    "The script's loss in bf16 lost its first times; here it is the plain error of the velocity in fp32.",
    "A share of the clips is kept apart for the held-out loss (data.held_out), which the script did not have.",
)

_T2V = Dialect(
    name="cogvideox-t2v",
    title="diffusers' train_cogvideox_lora.py",
    scripts=("train_cogvideox_lora.py",),
    settings={
        _BASE: Old(
            "model.base",
            by="text",
            patterns=(
                (r"(?i)cogvideox-?1\.5", {"model.variant": "1.5-5b"}),
                (r"(?i)5b", {"model.variant": "5b"}),
                (r"(?i)2b", {"model.variant": "2b"}),
            ),
            why="told by its name",
        ),
        **_SETTINGS,
        "video_reshape_mode": Old(
            words={
                "center": {"data.crop": "centre"},
                "random": {"data.crop": "random"},
                "none": {"data.crop": "random"},
            },
            default="center",
            why="the script's none is its random; one box for each clip, as there",
        ),
    },
    joint=_JOINT,
    given=(
        *_GIVEN,
        Given(
            {_BASE: "~(?i)i2v"},
            refuse="give the command of train_cogvideox_image_to_video_lora.py, or a text-to-video base",
            why="this script trains text-to-video bases; with this one it failed at its first step",
        ),
    ),
    always=_ALWAYS,
    notes=(*_NOTES, "The script ran T5 in every step; here each caption is encoded once."),
)

_I2V = Dialect(
    name="cogvideox-i2v",
    title="diffusers' train_cogvideox_image_to_video_lora.py",
    scripts=("train_cogvideox_image_to_video_lora.py",),
    settings={
        _BASE: Old(
            "model.base",
            by="text",
            patterns=(
                (r"(?i)cogvideox-?1\.5.*i2v", {"model.variant": "1.5-5b-i2v"}),
                (r"(?i)i2v", {"model.variant": "5b-i2v"}),
            ),
            why="told by its name",
        ),
        **_SETTINGS,
        "validation_images": Old(why="one for each prompt; the script left out what one of both had more"),
        "noised_image_dropout": Old("model.image_dropout", default="0.05"),
        "nccl_timeout": Old(fate="elsewhere", why="no setting: ranks wait six hours for each other"),
    },
    joint=(*_JOINT, Joint(("validation_images", "validation_prompt_separator"), "preview.images", by="split")),
    given=(
        *_GIVEN,
        Given(
            {_BASE: r"~(?i)cogvideox-?(1\.5)?-(2b|5b)/?$"},
            refuse="give the command of train_cogvideox_lora.py, or an image-to-video base",
            why="this script trains image-to-video bases; with this one it failed at its first step",
        ),
    ),
    always=_ALWAYS,
    notes=(
        *_NOTES,
        "The script pressed every clip into the size, whatever its proportions; here clips are cropped.",
        "The script drew the noise on the first frame once, before training; here it is drawn anew in every step.",
    ),
)

DIALECTS: tuple[Dialect, ...] = (_T2V, _I2V)
