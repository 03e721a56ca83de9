"""Owns the table of FDoKE's DynamiCrafter: the keys of its YAML for LoRA, and the flags of main/trainer.py. Data alone.

Sources: main/trainer.py, main/utils_train.py, lvdm/data/webvid.py and the model's classes of the fork, its run.sh, and
what running them showed. A network's own keys must be as published: no recipe has them, since the variant has them.
"""

from cinelora.config.importing.dialect import Dialect, Given, Joint, Old

_NETWORK = "leave it as published: the network is the variant's own"
_OWN_CLASS = "leave it as published: other classes are not known here"
_NAMES = "names are RECIPE.step-000100 here"


def _same(default: str, why: str = _NETWORK) -> Old:
    """A key that must have one value."""
    return Old(fate="impossible", default=default, why=why)


_MODEL = {
    "model.pretrained_checkpoint": Old("model.base", by="text"),
    "model.lora_path": _same(
        "none", "`cinelora train --resume` goes on exactly; to learn on top of another adapter, merge it into the base"
    ),
    "model.base_learning_rate": Old("train.lr", why="low for a LoRA: if little happens in 500 steps, 5e-5 to 1e-4"),
    "model.scale_lr": _same("false", "multiply base_learning_rate yourself by batch size and number of GPUs"),
    "model.target": _same("lvdm.models.ddpm3d.LatentVisualDiffusion", _OWN_CLASS),
}

_DIFFUSION = {
    "rescale_betas_zero_snr": Old("noise.zero_terminal_snr"),
    "parameterization": Old(
        words={
            "v": {"noise.prediction": "v"},
            "eps": {"noise.prediction": "eps"},
            "x0": {"noise.prediction": "x0"},
        },
        why="what the base predicts",
    ),
    "linear_start": Old("noise.beta_start"),
    "linear_end": Old("noise.beta_end"),
    "num_timesteps_cond": _same("1", "leave it at 1"),
    "log_every_t": Old(fate="dead", why="of pictures in training, which the program has switched off"),
    "timesteps": _same("1000", "leave it at 1000: the table has as many levels"),
    "first_stage_key": _same("video", "leave it as published"),
    "cond_stage_key": _same("caption", "leave it as published"),
    "cond_stage_trainable": _same("false", "leave it false: text encoders do not learn, texts come from the cache"),
    "image_proj_model_trainable": Old(
        fate="dead", why="LoRA froze the Resampler whatever this said; lora.targets = 'reference+resampler' adapts it"
    ),
    "conditioning_key": _same("hybrid"),
    "image_size": Old(
        words={
            "40,64": {"model.variant": "512"},
            "72,128": {"model.variant": "1024"},
            "32,32": {"model.variant": "256"},
        },
        why="the variant is told by the size of its latents",
    ),
    "channels": _same("4"),
    "scale_by_std": _same("false"),
    "scale_factor": _same("0.18215"),
    "use_ema": Old(
        words={"true": {"train.ema_decay": 0.9999}, "false": {}}, why="a running mean of the adapter, not of the base"
    ),
    "uncond_prob": Old(
        "model.text_dropout",
        by="double",
        why="captions are left out up to twice this, and half of them together with the picture, as there",
    ),
    "uncond_type": _same("empty_seq", "leave it empty_seq: a dropped caption is the empty one"),
    "rand_cond_frame": Old(
        words={"true": {"model.image_frame": "random"}, "false": {"model.image_frame": "first"}},
        default="false",
        why="which frame of a clip is its picture",
    ),
    "use_dynamic_rescale": Old(words={"true": {}, "false": {"noise.rescale_to": 1.0}}, why="together with base_scale"),
    "base_scale": Old(default="0.7", why="of use_dynamic_rescale"),
    "turning_step": Old("noise.rescale_times"),
    "fps_condition_type": Old(
        words={"fps": {"model.pace": "fps"}, "fs": {"model.pace": "stride"}}, default="fs", why="what the base is told"
    ),
    "perframe_ae": Old(fate="always", why="the autoencoder takes one frame at a time"),
    "interp_mode": Old(words={"true": {}, "false": {}}, default="false", why="first and last frame are given"),
    "noise_strength": Old("noise.noise_offset"),
    "loss_type": _same("l2", "leave it l2, as in the program's configurations"),
    "original_elbo_weight": _same("0", "leave it as published: no other loss is added"),
    "l_simple_weight": _same("1", "leave it as published: no other loss is added"),
    "learn_logvar": _same("false", "leave it as published: no other loss is added"),
    "logvar_init": _same("0", "leave it as published: no other loss is added"),
    "v_posterior": _same("0", "leave it as published: no other loss is added"),
    "freeze_embedder": Old(fate="always", why="the image encoder does not learn"),
    "scheduler_config.**": Old(
        fate="impossible",
        why="write train.schedule and train.warmup_steps instead; the program names classes that it does not ship",
    ),
}

_UNET = {
    "in_channels": "8",
    "out_channels": "4",
    "model_channels": "320",
    "attention_resolutions": "4,2,1",
    "num_res_blocks": "2",
    "channel_mult": "1,2,4,4",
    "dropout": "0.1",
    "num_head_channels": "64",
    "transformer_depth": "1",
    "context_dim": "1024",
    "use_linear": "true",
    "temporal_conv": "true",
    "temporal_attention": "true",
    "use_relative_position": "false",
    "use_causal_attention": "false",
    "temporal_length": "16",
    "addition_attention": "true",
    "image_cross_attention": "true",
    "fs_condition": "true",
}
_AUTOENCODER = {
    "embed_dim": "4",
    "ddconfig.double_z": "true",
    "ddconfig.z_channels": "4",
    "ddconfig.resolution": "256",
    "ddconfig.in_channels": "3",
    "ddconfig.out_ch": "3",
    "ddconfig.ch": "128",
    "ddconfig.ch_mult": "1,2,4,4",
    "ddconfig.num_res_blocks": "2",
    "ddconfig.attn_resolutions": "",
    "ddconfig.dropout": "0.0",
}
_RESAMPLER = {
    "dim": "1024",
    "depth": "4",
    "dim_head": "64",
    "heads": "12",
    "num_queries": "16",
    "embedding_dim": "1280",
    "output_dim": "1024",
    "ff_mult": "4",
    "video_length": "16",
}
_CLASSES = {
    "unet_config.target": "lvdm.modules.networks.openaimodel3d.UNetModel",
    "first_stage_config.target": "lvdm.models.autoencoder.AutoencoderKL",
    "cond_stage_config.target": "lvdm.modules.encoders.condition.FrozenOpenCLIPEmbedder",
    "img_cond_stage_config.target": "lvdm.modules.encoders.condition.FrozenOpenCLIPImageEmbedderV2",
    "image_proj_stage_config.target": "lvdm.modules.encoders.resampler.Resampler",
}
_NETWORKS = {
    **{key: _same(value, _OWN_CLASS) for key, value in _CLASSES.items()},
    **{f"unet_config.params.{key}": _same(value) for key, value in _UNET.items()},
    "unet_config.params.use_checkpoint": Old("train.gradient_checkpointing"),
    "unet_config.params.temporal_selfatt_only": Old(fate="dead", why="the network's blocks do not look at it"),
    "unet_config.params.default_fs": Old(
        fate="dead", why="told where no pace is told, which never happens in training"
    ),
    "unet_config.params.image_cross_attention_scale_learnable": Old(
        words={"true": {"model.variant": "256"}, "false": {}}, why="256 alone has it"
    ),
    **{f"first_stage_config.params.{key}": _same(value) for key, value in _AUTOENCODER.items()},
    "first_stage_config.params.monitor": Old(fate="dead", why="the autoencoder does not learn"),
    "first_stage_config.params.lossconfig.target": Old(fate="dead", why="the autoencoder does not learn"),
    "cond_stage_config.params.freeze": _same("true"),
    "cond_stage_config.params.layer": _same("penultimate"),
    "img_cond_stage_config.params.freeze": _same("true"),
    **{f"image_proj_stage_config.params.{key}": _same(value) for key, value in _RESAMPLER.items()},
}

_DATA = {
    "data.target": _same("utils_data.DataModuleFromConfig", _OWN_CLASS),
    "data.params.batch_size": Old("train.micro_size"),
    "data.params.num_workers": Old(fate="elsewhere", why="not needed: clips are encoded once into the cache"),
    "data.params.wrap": Old(fate="dead", why="changes nothing of what is learned"),
    "data.params.train.target": _same("lvdm.data.webvid.WebVid", _OWN_CLASS),
}
_CLIPS = {
    "data_dir": Old(
        "data.source.0.media_root", by="from_main", why="clips are in its videos/PAGE_DIR; paths there began in main/"
    ),
    "meta_path": Old(
        "data.source.0.path",
        by="from_main",
        why="videoid, page_dir, name; rows with other empty cells are not lost here",
    ),
    "subsample": Old(fate="impossible", why="name a shorter table"),
    "video_length": Old("data.frames", by="one"),
    "frame_stride": Old(default="1", why="every how many-th frame"),
    "frame_stride_min": Old(default="1", why="the smallest stride of random_fs"),
    "random_fs": Old(words={"true": {}, "false": {}}, default="false", why="whether strides are drawn"),
    "fixed_fps": Old(why="by timestamps here; whole strides left clips of 30 a second at 30"),
    "fps_max": Old(fate="impossible", why="remove it: what the base is told has no limit here"),
    "load_raw_resolution": Old(fate="always", why="clips are read in their own size"),
    "resolution": Old("data.size", by="numbers", why="every clip in this size"),
    "spatial_transform": Old(
        words={
            "resize_center_crop": {"data.crop": "centre"},
            "center_crop": {"data.crop": "centre"},
            "random_crop": {"data.crop": "random"},
            "resize": {"data.crop": "none"},
        },
        why="without the black bars that the program put beside clips which are narrower than the size",
    ),
    "crop_resolution": Old(fate="elsewhere", why="data.size is what is cut"),
}

_LIGHTNING = {
    "precision": Old(
        words={
            "16": {"train.precision": "fp16", "model.dtype": "fp32"},
            "16-mixed": {"train.precision": "fp16", "model.dtype": "fp32"},
            "bf16": {"train.precision": "bf16", "model.dtype": "fp32"},
            "bf16-mixed": {"train.precision": "bf16", "model.dtype": "fp32"},
            "32": {"train.precision": "fp32", "model.dtype": "fp32"},
            "32-true": {"train.precision": "fp32", "model.dtype": "fp32"},
        },
        why="the base in fp32 as there; bf16 for both takes half the memory and does not overflow as fp16 does",
    ),
    "optimize_matmul": Old(fate="elsewhere", why="no setting"),
    "strategy": Old(fate="dead", why="the program looked at its name and gave it to nobody"),
    "compile": Old(fate="dead", why="the program compiled the network and threw the result away"),
    "lora.enabled": _same("true", "leave it true: a run here trains an adapter; lora.parts lets whole parts learn"),
    "lora.rank": Old("lora.rank"),
    "lora.alpha": Old(why="the strength itself"),
    "lora.dropout": Old("lora.dropout"),
    "lora.skip_layers": Old(why="parts of names of modules that get no adapter"),
    "lora.save_only_lora": Old(
        words={"true": {"train.kept": "adapter"}, "false": {"train.kept": "checkpoint"}},
        why="what is kept for good; the last checkpoint always has the optimizer, too, to go on from",
    ),
    "trainer.benchmark": Old(fate="elsewhere", why="no setting"),
    "trainer.accumulate_grad_batches": Old("train.accumulation"),
    "trainer.max_steps": Old("train.steps", why="100000 there means: stop by hand; --resume with more steps goes on"),
    "trainer.max_epochs": Old("train.epochs"),
    "trainer.log_every_n_steps": Old(fate="elsewhere", why="every step is on the run's page and in events.jsonl"),
    "trainer.val_check_interval": Old(
        fate="dead", why="the program has no validation; held_out.every_steps looks at clips kept apart"
    ),
    "trainer.gradient_clip_algorithm": _same("norm", "leave it at norm"),
    "trainer.gradient_clip_val": Old("train.clip_norm"),
    "trainer.num_nodes": Old(fate="dead", why="the program did not hand it on; the launcher knows"),
    "trainer.devices": Old(fate="dead", why="the program did not hand it on; the launcher knows"),
}
_SAVED = {
    "target": Old(fate="always", why="checkpoints are whole: adapter, optimizer, step"),
    "params.filename": Old(fate="elsewhere", why=_NAMES),
    "params.save_weights_only": Old(fate="elsewhere", why="train.kept says what is kept for good"),
    "params.save_top_k": Old(fate="elsewhere", why="all of the folder history stay, and train.keep_last of the others"),
    "params.monitor": Old(fate="elsewhere", why="the best by the held-out loss is always kept"),
    "params.verbose": Old(fate="elsewhere", why="no setting"),
}
_CALLBACKS = {
    **{f"model_checkpoint.{key}": old for key, old in _SAVED.items()},
    "model_checkpoint.params.every_n_train_steps": Old("train.save_every_steps"),
    "model_checkpoint.params.every_n_epochs": Old(
        fate="impossible", why="say every_n_train_steps: train.save_every_steps counts optimizer steps"
    ),
    **{f"metrics_over_trainsteps_checkpoint.{key}": old for key, old in _SAVED.items()},
    "metrics_over_trainsteps_checkpoint.params.every_n_epochs": Old(
        "train.keep_every_epochs", why="a pass here goes over all windows of each clip"
    ),
    "metrics_over_trainsteps_checkpoint.params.every_n_train_steps": Old("train.keep_every_steps"),
    "batch_logger.target": Old(fate="elsewhere", why="[preview] draws videos in training"),
    "batch_logger.params.batch_frequency": Old(
        fate="elsewhere", why="preview.every_steps; the program crashed here, so that its configuration avoids it"
    ),
    "batch_logger.params.max_images": Old(fate="elsewhere", why="preview.prompts, each drawn preview.num_seeds times"),
    "batch_logger.params.to_local": Old(fate="elsewhere", why="previews are mp4 files in the run's folder"),
    "batch_logger.params.log_images_kwargs.ddim_steps": Old("preview.num_steps"),
    "batch_logger.params.log_images_kwargs.unconditional_guidance_scale": Old("preview.guidance"),
    "batch_logger.params.log_images_kwargs.timestep_spacing": Old(
        words={
            "uniform_trailing": {"noise.spacing": "trailing"},
            "uniform": {"noise.spacing": "uniform"},
            "quad": {"noise.spacing": "quad"},
        }
    ),
    "batch_logger.params.log_images_kwargs.guidance_rescale": Old("preview.guidance_rescale"),
}

_FLAGS = {
    "base": Old(many=True, why="later files win"),
    "seed": Old("train.seed", default="20230211"),
    "name": Old(default="", why="a folder in logdir"),
    "logdir": Old(default="logs", why="where runs lie"),
    "train": Old(fate="always", switch=True, why="`cinelora train`"),
    "val": Old(fate="dead", switch=True, why="switched off in the program"),
    "test": Old(fate="dead", switch=True, why="switched off in the program"),
    "auto_resume": Old(
        fate="dead", switch=True, why="read and not used; `cinelora train --resume RUN` goes on exactly"
    ),
    "auto_resume_weight_only": Old(fate="dead", switch=True, why="read and not used"),
    "debug": Old(fate="dead", switch=True, why="read and not used"),
    "devices": Old(fate="dead", why="became an empty key of the configuration; the launcher knows"),
}

_T = "data.params.train.params"
_P = "model.params"
_DYNAMICRAFTER = Dialect(
    name="dynamicrafter",
    title="FDoKE's DynamiCrafter",
    scripts=("main/trainer.py",),
    keys=("model.pretrained_checkpoint", "model.params.image_proj_stage_config.target"),
    short={"-s": "seed", "-n": "name", "-b": "base", "-t": "train", "-v": "val", "-l": "logdir", "-d": "debug"},
    reads=("base",),
    settings={
        **_FLAGS,
        **_MODEL,
        **{f"{_P}.{key}": old for key, old in _DIFFUSION.items()},
        **{f"{_P}.{key}": old for key, old in _NETWORKS.items()},
        **_DATA,
        **{f"{_T}.{key}": old for key, old in _CLIPS.items()},
        **{f"lightning.{key}": old for key, old in _LIGHTNING.items()},
        **{f"lightning.callbacks.{key}": old for key, old in _CALLBACKS.items()},
    },
    joint=(
        Joint((f"{_P}.uncond_prob",), "model.image_dropout", by="double", why="the same share"),
        Joint((f"{_P}.base_scale",), "noise.rescale_to", by="same", when={f"{_P}.use_dynamic_rescale": "true"}),
        Joint(
            ("lightning.lora.alpha", "lightning.lora.rank"),
            "lora.alpha",
            by="product",
            why="the strength itself there, so times the rank: strength is alpha / rank here",
        ),
        Joint(("lightning.lora.skip_layers",), "lora.targets", by="without", why="names that hold none of these"),
        Joint(
            (f"{_T}.fixed_fps", f"{_T}.frame_stride"),
            "data.fps",
            by="quotient",
            why="by timestamps; whole strides left clips of 30 a second at 30",
            when={f"{_T}.fixed_fps": "set"},
        ),
        Joint((f"{_T}.frame_stride",), "data.stride", by="same", when={f"{_T}.fixed_fps": "unset"}),
        Joint(
            (f"{_T}.frame_stride_min",),
            "data.stride_min",
            by="same",
            why="strides are drawn from here to data.stride",
            when={f"{_T}.fixed_fps": "unset", f"{_T}.random_fs": "true"},
        ),
        Joint(("logdir", "name"), "run.folder", by="below", when={"name": "~."}),
    ),
    given=(
        Given(
            {}, {"data.buckets": "single", "data.upscale": True}, why="every clip is brought to the one size, as there"
        ),
        Given(
            {},
            {"data.clip": "random", "data.num_variants": 4},
            why="four windows of each clip in the cache; there another one was decoded in each step",
        ),
        Given({}, {"lora.files": ["original", "peft"]}, why="what the program's tools read, and what others do"),
        Given({}, {"train.optimizer": "adamw", "train.weight_decay": 0.01}, why="the program's only one"),
        Given({}, {"train.keep_last": 1}, why="replaced by the next one, as there"),
        Given({}, {"train.files_at_saves": True}, why="to try the adapter while the run goes on, as there"),
        Given({f"{_T}.fixed_fps": "unset"}, {"data.fps": "source"}, why="frames of the source, every stride-th"),
        Given(
            {"lightning.lora.skip_layers": "~."},
            {"lora.parts.resampler": "frozen"},
            why="the pattern is of the UNet's names",
        ),
        Given({f"{_P}.interp_mode": "true"}, {"model.variant": "512-interp"}, why="interp_mode"),
    ),
    always={
        "model.family": "dynamicrafter",
        "data.source.0.reader": "webvid",
        "lora.targets": "reference",
    },
    notes=(
        "Its `--alpha=1.0` of the guide doubled what was trained with alpha 0.5; files from here say their strength.",
        "It made adapters for text and image encoders, too, 168 of 620, which never learned; they are left out here.",
        "Its files held no optimizer and no step, so that no run could go on; here every checkpoint is whole.",
        "Rows of the table vanished where any cell was empty, and where all clips were bad it looked for ever; what is "
        "left out here is listed with its reason, or stops the run before it begins.",
        "Adapters and weights that did not fit were passed over in silence; here they are an error.",
        "Four windows of each clip are encoded once (data.num_variants), where it decoded and encoded in every step.",
        "A share of the clips is kept apart for the held-out loss (data.held_out), which it did not have.",
        "Its configuration for interpolation lacked keys and did not start; interp_mode is the variant 512-interp.",
    ),
)

DIALECTS: tuple[Dialect, ...] = (_DYNAMICRAFTER,)
