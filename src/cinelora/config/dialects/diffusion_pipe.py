"""Owns the table of diffusion-pipe: its training TOML, its dataset TOML, the flags of train.py. Data alone.

Sources: train.py, utils/dataset.py, utils/common.py, models/wan/wan.py, docs/supported_models.md and examples/*.toml of
tdrussell/diffusion-pipe; of optimi, its AdamW's defaults.
"""

from cinelora.config.importing.dialect import Dialect, Given, Joint, Old

_SWAP = "all frozen blocks wait in main memory, are copied ahead of use and never back"
_NO_SETTING = "no setting"
_CACHE = "`cinelora cache` looks after the cache, whose entries are known by their content"
_HELD_OUT = "clips are kept apart by data.held_out and looked at every held_out.every_steps"
_BY_STEPS = "count it in optimizer steps"
_AREA = "buckets = grid has every size of about this area, and each clip gets the nearest proportions"

_RUN = {
    "output_dir": Old("run.folder", by="text", why="one run, where diffusion-pipe made a folder by the date in it"),
    "dataset": Old(why="its directories are the sources"),
    "eval_datasets.**": Old(fate="elsewhere", why=_HELD_OUT),
    "eval_datasets": Old(fate="elsewhere", why=_HELD_OUT),
    "epochs": Old("train.epochs"),
    "max_steps": Old("train.steps", why="wins over epochs, which is set high as a rule"),
    "micro_batch_size_per_gpu": Old("train.micro_size", by="count", default="1"),
    "image_micro_batch_size_per_gpu": Old(fate="impossible", why="remove it: there is one size for all"),
    "pipeline_stages": Old(fate="impossible", default="1", why="set it to 1: networks are not split over GPUs here"),
    "gradient_accumulation_steps": Old("train.accumulation", default="1"),
    "gradient_clipping": Old("train.clip_norm", default="1.0"),
    "warmup_steps": Old("train.warmup_steps", default="0"),
    "force_constant_lr": Old(
        fate="impossible", why="remove it: `cinelora train --resume RUN --set train.lr=...` where it is wanted"
    ),
    "lr_scheduler": Old(
        words={
            "constant": {"train.schedule": "constant"},
            "linear": {"train.schedule": "linear"},
            "cosine": {"train.schedule": "cosine"},
        },
        default="constant",
        why="over the whole run, where diffusion-pipe goes by epochs and does not look at max_steps",
    ),
    "lr_scheduler_eta_min": Old(
        fate="impossible", default="0.0", why="remove it, and write train.final_lr_share, a share of the rate"
    ),
    "blocks_to_swap": Old(patterns=((r"^0*$", {}), (".", {"memory.base": "streamed"})), why=_SWAP),
    "disable_block_swap_for_eval": Old(
        fate="elsewhere", why="a streamed base is streamed for previews and held-out losses, too"
    ),
    "pseudo_huber_c": Old(fate="dead", why="its example names it and no code reads it; errors are squared"),
    "uncond_fraction": Old("model.text_dropout", default="0.0", why="share of clips whose caption is dropped"),
    "eval_every_n_epochs": Old(fate="elsewhere", why="held_out.every_steps counts optimizer steps"),
    "eval_every_n_steps": Old("held_out.every_steps"),
    "eval_every_n_examples": Old(fate="elsewhere", why="held_out.every_steps counts optimizer steps"),
    "eval_before_first_step": Old(fate="always", why="the loss on clips kept apart begins before the first step"),
    "eval_micro_batch_size_per_gpu": Old(
        fate="elsewhere", why="no clip kept apart is left out for a batch that is not full"
    ),
    "image_eval_micro_batch_size_per_gpu": Old(fate="elsewhere", why="no clip kept apart is left out"),
    "eval_image_micro_batch_size_per_gpu": Old(fate="elsewhere", why="no clip kept apart is left out"),
    "eval_gradient_accumulation_steps": Old(fate="elsewhere", why="no clip kept apart is left out"),
    "save_every_n_epochs": Old("train.keep_every_epochs", why="adapters that are kept for good"),
    "save_every_n_steps": Old("train.keep_every_steps", why="adapters that are kept for good"),
    "save_every_n_examples": Old(fate="impossible", why=f"write train.keep_every_steps instead: {_BY_STEPS}"),
    "checkpoint_every_n_epochs": Old(fate="elsewhere", why=f"train.save_every_steps: {_BY_STEPS}"),
    "checkpoint_every_n_minutes": Old(fate="elsewhere", why=f"train.save_every_steps: {_BY_STEPS}"),
    "activation_checkpointing": Old(
        words={
            "true": {"train.gradient_checkpointing": True},
            "unsloth": {"train.gradient_checkpointing": True, "memory.activations": "offload"},
            "false": {"train.gradient_checkpointing": False},
        },
        default="false",
        why="unsloth's are moved to main memory, too",
    ),
    "reentrant_activation_checkpointing": Old(fate="elsewhere", why=_NO_SETTING),
    "upload_hf_from_epoch": Old(fate="elsewhere", why="`cinelora push RUN OWNER/NAME`, or report.hub, at the end"),
    "huggingface_repo": Old("report.hub", by="text", why="OWNER/NAME"),
    "partition_method": Old(fate="elsewhere", why="networks are not split over GPUs here"),
    "partition_split": Old(fate="elsewhere", why="networks are not split over GPUs here"),
    "save_dtype": Old(fate="elsewhere", why="adapters learn and are saved in fp32"),
    "caching_batch_size": Old(fate="always", why="clips are encoded one by one"),
    "map_num_proc": Old(fate="elsewhere", why=_NO_SETTING),
    "compile": Old(words={"true": {"speed.compile": True}, "false": {}}, why="block by block"),
    "steps_per_print": Old(fate="elsewhere", why="every step is on the run's page and in events.jsonl"),
    "logging_steps": Old(fate="elsewhere", why="every step is on the run's page and in events.jsonl"),
    "x_axis_examples": Old(fate="elsewhere", why="curves go by optimizer steps"),
    "video_clip_mode": Old(
        words={"single_beginning": {"data.clip": "head"}, "single_middle": {"data.clip": "middle"}},
        default="single_beginning",
        why="which stretch of a longer video",
    ),
}

_MODEL = {
    "model.type": Old(words={"wan": {"model.family": "wan"}}, why="of diffusion-pipe's models, Wan is here"),
    "model.ckpt_path": Old(
        "model.base",
        by="text",
        patterns=(
            (r"(?i)ti2v-?5b", {"model.variant": "2.2-ti2v-5b"}),
            (r"(?i)2\.2.*t2v", {"model.variant": "2.2-t2v-a14b"}),
            (r"(?i)2\.2.*i2v", {"model.variant": "2.2-i2v-a14b"}),
            (r"(?i)i2v-?14b.*720", {"model.variant": "i2v-14b-720p"}),
            (r"(?i)i2v-?14b", {"model.variant": "i2v-14b-480p"}),
            (r"(?i)1\.3b", {"model.variant": "t2v-1.3b"}),
            (r"(?i)14b", {"model.variant": "t2v-14b"}),
        ),
        why="the variant is told by its name",
    ),
    "model.transformer_path": Old(
        fate="elsewhere", why="the variant says which of a folder's networks learns; put a file from elsewhere into it"
    ),
    "model.llm_path": Old(fate="elsewhere", why="looked for in model.base: put or link it there"),
    "model.vae_path": Old(fate="elsewhere", why="looked for in model.base: put or link it there"),
    "model.clip_path": Old(fate="elsewhere", why="looked for in model.base: put or link it there"),
    "model.dtype": Old(
        words={
            "bfloat16": {"model.dtype": "bf16", "train.precision": "bf16"},
            "float16": {"model.dtype": "fp16", "train.precision": "fp16"},
            "float32": {"model.dtype": "fp32", "train.precision": "fp32"},
        },
        why="of the base and of the forward pass",
    ),
    "model.transformer_dtype": Old(
        patterns=(("float8|fp8", {"memory.quantise": "fp8"}), (".", {})),
        why="by row; weights are off by about 3 % of their size",
    ),
    "model.diffusion_model_dtype": Old(
        patterns=(("float8|fp8", {"memory.quantise": "fp8"}), (".", {})),
        why="by row; weights are off by about 3 % of their size",
    ),
    "model.text_encoder_fp8": Old(fate="elsewhere", why="the text encoder is in memory for the cache alone"),
    "model.cache_text_embeddings": Old(fate="always", why="each caption is encoded once"),
    "model.guidance": Old(fate="dead", why="of models with built-in guidance, which Wan is not"),
    "model.timestep_sample_method": Old(
        words={"logit_normal": {"noise.timesteps": "logit_normal"}, "uniform": {"noise.timesteps": "uniform"}},
        default="logit_normal",
        why="how noise levels are drawn",
    ),
    "model.sigmoid_scale": Old(default="1.0", why="of logit_normal alone"),
    "model.shift": Old("noise.shift", default="1.0"),
    "model.flux_shift": Old(
        fate="impossible", default="false", why="set it to false: noise.shift is the same for all sizes"
    ),
    "model.min_t": Old("noise.t_min"),
    "model.max_t": Old("noise.t_max"),
}

_ADAPTER = {
    "adapter.type": Old(words={"lora": {}}, why="LoRA; LoKr is not here"),
    "adapter.rank": Old("lora.rank", by="count"),
    "adapter.alpha": Old(fate="impossible", why="remove it, as diffusion-pipe itself asks: its alpha is the rank"),
    "adapter.dropout": Old("lora.dropout"),
    "adapter.dtype": Old(fate="always", why="adapters are fp32"),
    "adapter.init_from_existing": Old(
        fate="impossible",
        why="remove it: `cinelora train --resume` goes on exactly; or merge it: `cinelora lora apply`",
    ),
    "adapter.fuse_adapters": Old(fate="impossible", why="merge them into the base first: `cinelora lora apply`"),
    "adapter.fuse_adapters.**": Old(fate="impossible", why="merge them into the base first: `cinelora lora apply`"),
    "adapter.exclude_linear_modules": Old(
        fate="impossible", why="remove it, and write lora.targets: a preset or a regular expression"
    ),
}

_OPTIMIZER = {
    "optimizer.type": Old(
        words={
            "adamw_optimi": {"train.optimizer": "adamw"},
            "adamw": {"train.optimizer": "adamw"},
            "adamw8bit": {"train.optimizer": "adamw_8bit"},
            "AdamW8bitKahan": {"train.optimizer": "adamw_8bit"},
            "Prodigy": {"train.optimizer": "prodigy"},
        },
        why="adapters are fp32, so that Kahan's summation has nothing to save",
    ),
    "optimizer.lr": Old("train.lr"),
    "optimizer.betas": Old("train.betas", by="numbers"),
    "optimizer.weight_decay": Old("train.weight_decay"),
    "optimizer.eps": Old("train.eps"),
    "optimizer.stabilize": Old(fate="elsewhere", why="train.clip_norm holds large steps back"),
    "optimizer.gradient_release": Old(
        fate="impossible", default="false", why="set it to false: gradients are kept until the step"
    ),
    "optimizer.beta2_half_life": Old(fate="impossible", why="write the second of betas itself"),
}

_REPORT = {
    "monitoring.enable_wandb": Old(words={"true": {"report.trackers": ["wandb"]}, "false": {}}, default="false"),
    "monitoring.wandb_api_key": Old(fate="elsewhere", why="`wandb login`: no key belongs into a recipe"),
    "monitoring.wandb_tracker_name": Old(fate="elsewhere", why="trackers are given the run's own name"),
    "monitoring.wandb_run_name": Old(fate="elsewhere", why="trackers are given the run's own name"),
}

_CAPTIONS = Old(why="put before every caption, with one space between")
_SHUFFLED = Old(why="orders of a caption's tags")
_ALL = {
    "resolutions": Old("data.size", by="side", why="the side of a square of this area"),
    "enable_ar_bucket": Old(
        words={"true": {"data.buckets": "grid"}, "false": {"data.buckets": "single"}},
        default="false",
        why="sizes near each clip's proportions",
    ),
    "min_ar": Old(fate="elsewhere", why=_AREA),
    "max_ar": Old(fate="elsewhere", why=_AREA),
    "num_ar_buckets": Old(fate="elsewhere", why=_AREA),
    "ar_buckets": Old(fate="elsewhere", why=_AREA),
    "size_buckets": Old(fate="impossible", why="write resolutions and frame_buckets instead"),
    "frame_buckets": Old(
        "data.frames", by="frames_of_videos", why="4k + 1; a picture has one frame, whether 1 is among them or not"
    ),
    "cache_shuffle_num": _SHUFFLED,
    "cache_shuffle_delimiter": Old(fate="impossible", default=", ", why="remove it: tags are parted by commas"),
    "shuffle_tags": Old(words={"true": {}, "false": {}}, why="one order of a caption's tags"),
    "caption_prefix": _CAPTIONS,
    "skip_empty_caption": Old(
        words={"true": {}, "false": {}},
        why="clips without a caption are named before anything starts; data.on_bad = 'skip' leaves them out",
    ),
    "num_repeats": Old(why="how many times each clip counts"),
    "shuffle_metadata": Old(fate="always", why="clips are shown in a drawn order"),
    "online_captions": Old(
        fate="impossible", default="false", why="remove it: captions lie beside their clips, or in a table"
    ),
    "subsample_ratio": Old(fate="impossible", why="name a smaller folder, or a table of fewer rows"),
}
_ONE = {
    "path": Old("data.source.*.path", by="text"),
    "mask_path": Old(fate="impossible", why="remove it: masks lie beside their clips, as mask_suffix says"),
    "control_path": Old(fate="impossible", why="remove it: networks that are told a control picture are not here"),
    "default_mask_file": Old(fate="impossible", why="remove it: clips without a mask count as a whole"),
    "resolutions": Old("data.source.*.rules.size", by="side", why="the side of a square of this area"),
    "enable_ar_bucket": Old(
        words={"true": {"data.source.*.rules.buckets": "grid"}, "false": {"data.source.*.rules.buckets": "single"}},
        why="sizes near each clip's proportions",
    ),
    "frame_buckets": Old("data.source.*.rules.frames", by="frames_of_videos", why="4k + 1"),
    **{name: _ALL[name] for name in ("min_ar", "max_ar", "num_ar_buckets", "ar_buckets", "size_buckets")},
    **{name: _ALL[name] for name in ("cache_shuffle_num", "shuffle_tags", "caption_prefix", "num_repeats")},
    "cache_shuffle_delimiter": Old(fate="impossible", why="remove it: tags are parted by commas"),
    "skip_empty_caption": _ALL["skip_empty_caption"],
    "shuffle_metadata": _ALL["shuffle_metadata"],
    "online_captions": Old(fate="impossible", why="remove it: captions lie beside their clips, or in a table"),
}

_FLAGS = {
    "config": Old(why="the training TOML"),
    "deepspeed": Old(fate="elsewhere", switch=True, why="the launcher's line: ranks take the same step together"),
    "deepspeed_config": Old(fate="elsewhere", why="the launcher's line"),
    "local_rank": Old(fate="launch", why="the launcher's"),
    "resume_from_checkpoint": Old(fate="elsewhere", many=True, why="`cinelora train --resume RUN`"),
    "reset_dataloader": Old(fate="elsewhere", switch=True, why="a resumed run goes on in the data where it stood"),
    "reset_optimizer": Old(fate="elsewhere", switch=True, why="a resumed run goes on with its optimizer"),
    "reset_optimizer_params": Old(fate="elsewhere", switch=True, why="`--resume RUN --set train.lr=...`"),
    "regenerate_cache": Old(fate="elsewhere", switch=True, why=_CACHE),
    "trust_cache": Old(fate="elsewhere", switch=True, why=_CACHE),
    "cache_only": Old(fate="elsewhere", switch=True, why="`cinelora cache recipe.toml`"),
    "i_know_what_i_am_doing": Old(fate="elsewhere", switch=True, why="there is no check to pass over"),
    "master_port": Old(fate="launch", why="the launcher's"),
    "dump_dataset": Old(fate="elsewhere", why="`cinelora check recipe.toml --report FOLDER` shows every clip"),
    "test_sample": Old(fate="elsewhere", switch=True, why="`cinelora sample`"),
}

_PREFIX = ("directory.*.caption_prefix", "caption_prefix")
_TAGS = ("directory.*.cache_shuffle_num", "cache_shuffle_num")
_NO_TAGS = {name: "unset" for name in _TAGS}
_OPTIMI = {"optimizer.type": "adamw_optimi"}

_PIPE = Dialect(
    name="diffusion-pipe",
    title="diffusion-pipe",
    scripts=("train.py",),
    keys=("micro_batch_size_per_gpu", "pipeline_stages", "model.ckpt_path", "directory.*.path", "frame_buckets"),
    sign="config",
    reads=("config", "dataset"),
    settings={
        **_FLAGS,
        **_RUN,
        **_MODEL,
        **_ADAPTER,
        **_OPTIMIZER,
        **_REPORT,
        **_ALL,
        **{f"directory.*.{name}": old for name, old in _ONE.items()},
    },
    joint=(
        Joint(
            ("model.sigmoid_scale",),
            "noise.logit_std",
            by="same",
            when={"model.timestep_sample_method": "logit_normal"},
        ),
        Joint(_PREFIX, "data.source.*.caption_prefix", by="first"),
        Joint(_TAGS, "data.source.*.shuffle_tags", by="first"),
        Joint(("directory.*.num_repeats", "num_repeats"), "data.source.*.repeats", by="first"),
    ),
    given=(
        Given({}, {"data.short": "skip"}, why="videos shorter than every frame bucket are left out, as there"),
        Given({}, {"lora.files": ["comfyui", "diffusers"]}, why="ComfyUI's layout, as there, and diffusers'"),
        Given({"max_steps": "set"}, {"train.epochs": None}, why="max_steps wins"),
        Given({"enable_ar_bucket": "false"}, {"data.upscale": True}, why="every clip in the one size"),
        Given({"enable_ar_bucket": "true"}, {"data.upscale": True}, why="small clips are enlarged, as there"),
        Given({"skip_empty_caption": "false", "directory.*.path": "set"}, {"data.source.*.empty_caption": "allow"}),
        Given({"directory.*.skip_empty_caption": "false"}, {"data.source.*.empty_caption": "allow"}),
        Given({"shuffle_tags": "true"} | _NO_TAGS, {"data.source.*.shuffle_tags": 1}, why="shuffle_tags"),
        Given({"directory.*.shuffle_tags": "true"} | _NO_TAGS, {"data.source.*.shuffle_tags": 1}, why="shuffle_tags"),
        Given(
            {"model.ckpt_path": "~(?i)2\\.2.*t2v", "model.transformer_path": "~(?i)low"},
            {"model.variant": "2.2-t2v-low"},
            why="told by transformer_path",
        ),
        Given(
            {"model.ckpt_path": "~(?i)2\\.2.*t2v", "model.transformer_path": "~(?i)high"},
            {"model.variant": "2.2-t2v-high"},
            why="told by transformer_path",
        ),
        Given(
            {"model.ckpt_path": "~(?i)2\\.2.*[^t]i2v", "model.transformer_path": "~(?i)low"},
            {"model.variant": "2.2-i2v-low"},
            why="told by transformer_path",
        ),
        Given(
            {"model.ckpt_path": "~(?i)2\\.2.*[^t]i2v", "model.transformer_path": "~(?i)high"},
            {"model.variant": "2.2-i2v-high"},
            why="told by transformer_path",
        ),
        Given(_OPTIMI | {"optimizer.betas": "unset"}, {"train.betas": [0.9, 0.99]}, why="optimi's own"),
        Given(_OPTIMI | {"optimizer.eps": "unset"}, {"train.eps": 1e-6}, why="optimi's own"),
        Given(
            {"optimizer.type": "~(?i)^adamw(8bit|8bitkahan)?$", "optimizer.weight_decay": "unset"},
            {"train.weight_decay": 0.01},
            why="AdamW's own, where [optimizer] says nothing",
        ),
        Given(
            {"adapter.type": "unset", "model.type": "set"},
            refuse="add [adapter] with type = 'lora', or let whole parts learn with lora.parts in a recipe of your own",
            why="without [adapter] diffusion-pipe trains the whole network",
        ),
    ),
    always={
        "model.family": "wan",
        "lora.targets": "attention+ffn",
    },
    notes=(
        "It left out clips of buckets that did not fill a batch; here none is (data.small_buckets).",
        "Settings that it did not know were accepted and ignored, others' names too; here they are an error.",
        "Clips are resampled to the model's rate by timestamps; it did so too, by whole frames.",
        "Without an eval dataset it had no held-out loss; here a share of the clips is kept apart (data.held_out).",
    ),
)

DIALECTS: tuple[Dialect, ...] = (_PIPE,)
