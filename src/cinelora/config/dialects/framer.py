"""Owns the table of FramerTurbo's training/train_lora.py, and of the variables of its start scripts. Data alone.

Sources: the script's argument parser, dataset and training step, its scripts/train/*.sh, and what running it showed.
"""

from cinelora.config.importing.dialect import Dialect, Given, Joint, Old

_PRECISIONS = {
    "no": {"train.precision": "fp32", "model.dtype": "fp32"},
    "fp16": {"train.precision": "fp16", "model.dtype": "fp16"},
    "bf16": {"train.precision": "bf16", "model.dtype": "bf16"},
}
_NO_ADAPTER = {"lora.rank": None, "lora.alpha": None, "lora.dropout": None, "lora.targets": None}
_SVD = r"(?i)^(?!.*framer).*(img2vid|svd)"

_MODEL = {
    "pretrained_model_path": Old(
        "model.base",
        by="text",
        patterns=((_SVD, {"model.variant": "svd-xt"}), (r".", {"model.variant": "512x320"})),
        default="checkpoints/framer_512x320",
        why="a folder with unet/ and controlnet/",
    ),
    "svd_model_path": Old(
        fate="elsewhere",
        why="autoencoder and image encoder are looked for in the base's folder, in stable-video-diffusion-img2vid-xt "
        "beside it, then on the Hub",
    ),
    "train_unet": Old(switch=True, why="an adapter on the UNet"),
    "train_controlnet": Old(
        switch=True,
        why="the ControlNet in full: there it was saved as it had been, and alone the script failed at its first step",
    ),
}

_DATA = {
    "data_dir": Old("data.source.0.path", by="text"),
    "dataset_type": Old(
        words={
            "video": {"data.source.0.reader": "folder"},
            "image_pair": {"data.source.0.reader": "pairs"},
        },
        default="video",
    ),
    "num_frames": Old(default="3", why="of videos; pairs have two"),
    "height": Old(default="320"),
    "width": Old(default="512"),
    "num_workers": Old(fate="elsewhere", why="not needed: clips are encoded once into the cache"),
}

_TRAINING = {
    "output_dir": Old("run.folder", by="text"),
    "train_batch_size": Old(
        "train.micro_size", default="1", why="the script mixed up the clips of a batch above 1, which is put right here"
    ),
    "gradient_accumulation_steps": Old("train.accumulation", default="4"),
    "num_train_epochs": Old(default="10", why="passes over the clips"),
    "learning_rate": Old("train.lr", default="1e-4"),
    "lr_scheduler": Old(
        words={
            "constant": {"train.schedule": "constant"},
            "constant_with_warmup": {"train.schedule": "constant"},
            "linear": {"train.schedule": "linear"},
            "cosine": {"train.schedule": "cosine"},
        },
        default="constant_with_warmup",
    ),
    "lr_warmup_steps": Old(
        "train.warmup_steps",
        default="500",
        why="optimizer steps; there it took gradient_accumulation_steps times as long, so that many runs ended in it",
    ),
    "adam_beta1": Old(default="0.9"),
    "adam_beta2": Old(default="0.999"),
    "adam_weight_decay": Old("train.weight_decay", default="1e-2"),
    "adam_epsilon": Old("train.eps", default="1e-8"),
    "max_grad_norm": Old("train.clip_norm", default="1.0"),
    "lora_rank": Old("lora.rank", default="64"),
    "lora_alpha": Old("lora.alpha", default="64"),
    "lora_dropout": Old("lora.dropout", default="0.0"),
    "checkpointing_steps": Old(
        "train.save_every_steps", default="500", why="with the optimizer, to go on from; there the adapter alone"
    ),
    "resume_from_checkpoint": Old(
        fate="dead", why="the script read this and did nothing with it; `cinelora train --resume RUN` goes on exactly"
    ),
    "seed": Old("train.seed", default="42", why="there all GPUs drew the same noise"),
    "mixed_precision": Old(words=_PRECISIONS, default="fp16", why="of the forward pass and of the frozen base"),
    "noise_offset": Old(
        fate="wrong",
        why="belongs to a table of 1000 levels that the base was not trained with; here levels are the base's own",
    ),
    "prediction_type": Old(
        fate="wrong",
        why="the base predicts velocity: its epsilon taught the network to answer zero, and its v kept the wrong times",
    ),
}

_REPORT = {
    "logging_dir": Old(fate="elsewhere", why="all of a run is in its folder"),
    "use_wandb": Old(
        words={"set": {"report.trackers": ["wandb"]}, "unset": {}}, switch=True, why="the run's own page comes besides"
    ),
    "wandb_project": Old(fate="elsewhere", why="trackers are given the run's own name"),
    "report_to": Old(
        words={
            "tensorboard": {"report.trackers": ["tensorboard"]},
            "wandb": {"report.trackers": ["wandb"]},
            "all": {"report.trackers": ["tensorboard", "wandb"]},
        },
        why="there nothing ever arrived",
    ),
}

_ONLY_CONTROLNET = {"train_controlnet": "set", "train_unet": "unset"}

_FRAMER = Dialect(
    name="framer",
    title="FramerTurbo's train_lora.py",
    scripts=("training/train_lora.py", "training/train_lora_deepspeed.py"),
    variables={
        "PRETRAINED_MODEL": "pretrained_model_path",
        "SVD_MODEL": "svd_model_path",
        "DATA_DIR": "data_dir",
        "OUTPUT_DIR": "output_dir",
        "DATASET_TYPE": "dataset_type",
        "NUM_FRAMES": "num_frames",
        "HEIGHT": "height",
        "WIDTH": "width",
        "BATCH_SIZE": "train_batch_size",
        "GRADIENT_ACCUM": "gradient_accumulation_steps",
        "EPOCHS": "num_train_epochs",
        "LEARNING_RATE": "learning_rate",
        "LR_SCHEDULER": "lr_scheduler",
        "WARMUP_STEPS": "lr_warmup_steps",
        "LORA_RANK": "lora_rank",
        "LORA_ALPHA": "lora_alpha",
        "LORA_DROPOUT": "lora_dropout",
        "MIXED_PRECISION": "mixed_precision",
        "CHECKPOINT_STEPS": "checkpointing_steps",
        "USE_WANDB": "use_wandb",
        "WANDB_PROJECT": "wandb_project",
        "NUM_WORKERS": "num_workers",
        "SEED": "seed",
    },
    settings={**_MODEL, **_DATA, **_TRAINING, **_REPORT},
    joint=(
        Joint(("height", "width"), "data.size", by="numbers", why="every clip in this size; multiples of 8"),
        Joint(("num_frames",), "data.frames", by="one", when={"dataset_type": "video"}),
        Joint(
            ("num_train_epochs",),
            "train.epochs",
            by="quarter",
            why="a pass goes over four stretches of each video, so a quarter of them shows as many clips",
            when={"dataset_type": "video"},
        ),
        Joint(("num_train_epochs",), "train.epochs", by="same", when={"dataset_type": "image_pair"}),
        Joint(("adam_beta1", "adam_beta2"), "train.betas", by="numbers"),
    ),
    given=(
        Given({"lr_scheduler": "constant"}, {"train.warmup_steps": None}, why="this schedule has no warm-up there"),
        Given({"use_wandb": "set", "report_to": "~tensorboard|all"}, {"report.trackers": ["tensorboard", "wandb"]}),
        Given({}, {"data.buckets": "single", "data.upscale": True}, why="all are brought to the one size, as there"),
        Given(
            {"dataset_type": "video"},
            {"data.clip": "random", "data.num_variants": 4},
            why="four stretches of each video in the cache; the script drew one in each epoch",
        ),
        Given({"dataset_type": "image_pair"}, {"data.frames": [2]}, why="a pair is two frames"),
        Given(
            {"dataset_type": "image_pair", "num_frames": "~^(?!2$)"},
            why="a pair is two frames; the script filled the others with copies of the first, and learned those",
        ),
        Given(
            {"train_controlnet": "set"},
            {"model.variant": "512x320-tracks"},
            why="with the base's ControlNet, which the script never called",
        ),
        Given(
            {"train_controlnet": "set"},
            {"data.source.0.track_suffix": "_tracks"},
            why="points of each clip, which a ControlNet learns from: `cinelora tracks FOLDER` finds them",
        ),
        Given(
            _ONLY_CONTROLNET,
            {"lora.parts.unet": "frozen", "lora.parts.controlnet": "full"},
            why="the ControlNet alone, all of it; the script failed at this in its first step",
        ),
        Given(_ONLY_CONTROLNET, _NO_ADAPTER, why="nothing has an adapter"),
        Given(
            {"train_controlnet": "set", "train_unet": "set"},
            {"lora.parts.unet": "lora", "lora.parts.controlnet": "full"},
            why="an adapter on the UNet, and all of the ControlNet",
        ),
        Given(
            {"train_controlnet": "set", "pretrained_model_path": f"~{_SVD}"},
            {"model.variant": "svd-xt-tracks"},
            why="with a new ControlNet",
        ),
    ),
    always={
        "model.family": "framer",
        "lora.targets": "attention+ffn",
        "train.gradient_checkpointing": True,
    },
    notes=(
        "The script learned on another noise, with other times, targets and given latents than the base was made with, "
        "and its loss ended where an answer of zero would have; here all of these are the base's own.",
        "Of image pairs it filled frames between with copies of the first picture and learned those; a pair is two "
        "frames here.",
        "It took every 4th frame whatever the rate and told the base 7 per second; here clips are resampled to 7 per "
        "second by timestamps (data.fps).",
        "It pressed clips into the size, whatever their proportions; here they are cropped.",
        "Given pictures are left out of some clips (model.image_dropout), as guidance needs; the script left none out.",
        "Plain `accelerate launch` on several GPUs failed there; here it trains on all of them.",
        "Captions are neither needed nor read.",
    ),
)

DIALECTS: tuple[Dialect, ...] = (_FRAMER,)
