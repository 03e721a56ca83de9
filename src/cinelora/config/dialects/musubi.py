"""Owns the table of musubi-tuner's trainer for Wan: its flags, its --config_file, its dataset TOML. Data alone.

Sources: src/musubi_tuner/wan_train_network.py, training/parser_common.py and dataset/config_utils.py of kohya-ss/
musubi-tuner, docs/wan.md and docs/dataset_config.md.
"""

from cinelora.config.dialects.musubi_sources import DATASET_GIVEN, DATASET_JOINT, DATASET_SETTINGS
from cinelora.config.importing.dialect import Dialect, Given, Joint, Old, Tables

_FP8 = "by row; weights are off by about 3 % of their size"
_SWAP = "all frozen blocks wait in main memory, are copied ahead of use and never back"
_BESIDE = "looked for beside model.base, or on the Hub where that is left out: put or link it there"
_TEXT = "report and files say what the run was; model cards are made by `cinelora push`"
_HUB = "`cinelora push RUN OWNER/NAME`, or report.hub; `hf auth login` beforehand"
_NO_SETTING = "no setting"
_HIGH = "~(?i)high"
_BY_SCHEME = {"timestep_sampling": "sigma"}

_TASKS = {
    "t2v-1.3B": {"model.variant": "t2v-1.3b"},
    "t2v-14B": {"model.variant": "t2v-14b"},
    "t2i-14B": {"model.variant": "t2v-14b"},
    "i2v-14B": {"model.variant": "i2v-14b-480p"},
    "t2v-A14B": {"model.variant": "2.2-t2v-low"},
    "i2v-A14B": {"model.variant": "2.2-i2v-low"},
}
_SAMPLED: dict[str, Tables] = {
    "sigma": {"noise.timesteps": "uniform"},
    "uniform": {"noise.timesteps": "uniform", "noise.shift": 1.0},
    "sigmoid": {"noise.timesteps": "logit_normal", "noise.shift": 1.0},
    "shift": {"noise.timesteps": "logit_normal"},
}

_MODEL = {
    "task": Old(words=_TASKS, default="t2v-14B", why="of Wan 2.2's A14B, low unless the name of --dit says high"),
    "dit": Old(why="a file; the other networks are looked for beside it"),
    "dit_high_noise": Old(why="both experts learn, each with its own adapter; musubi trained one that both shared"),
    "vae": Old(fate="elsewhere", why=_BESIDE),
    "t5": Old(fate="elsewhere", why=_BESIDE),
    "clip": Old(fate="elsewhere", why=_BESIDE),
    "vae_dtype": Old(
        words={
            "bfloat16": {"model.vae_dtype": "bf16"},
            "float16": {"model.vae_dtype": "fp16"},
            "float32": {"model.vae_dtype": "fp32"},
        },
        why="left out, fp32 here, which is more exact than musubi's bfloat16",
    ),
    "timestep_boundary": Old(fate="always", why="experts meet where the base says: 0.875 text-, 0.9 image-to-video"),
    "offload_inactive_dit": Old(
        words={"set": {"model.experts_in_memory": "one"}, "unset": {}},
        switch=True,
        why="moving an expert takes time: method.expert_stretch steps of one before it is the other's turn",
    ),
    "one_frame": Old(
        fate="impossible", switch=True, default="unset", why="remove it: training on single target frames is not here"
    ),
    "fp8_base": Old(switch=True, words={"set": {"memory.quantise": "fp8"}, "unset": {}}, why=_FP8),
    "fp8_scaled": Old(switch=True, words={"set": {"memory.quantise": "fp8"}, "unset": {}}, why=_FP8),
    "fp8_t5": Old(fate="elsewhere", switch=True, why="the text encoder is in memory for the cache alone"),
    "vae_cache_cpu": Old(fate="elsewhere", switch=True, why="memory.vae_tiling saves memory of the autoencoder"),
    "force_v2_1_time_embedding": Old(
        fate="impossible", switch=True, default="unset", why="remove it: the base was not trained so"
    ),
    "blocks_to_swap": Old(patterns=((r"^0*$", {}), (".", {"memory.base": "streamed"})), why=_SWAP),
    "use_pinned_memory_for_block_swap": Old(
        fate="always", switch=True, why="main memory of a streamed base is page-locked"
    ),
    "img_in_txt_in_offloading": Old(fate="dead", switch=True, why="of HunyuanVideo alone"),
    "disable_numpy_memmap": Old(fate="elsewhere", switch=True, why=_NO_SETTING),
    "guidance_scale": Old(fate="dead", why="of HunyuanVideo alone"),
}

_NETWORK = {
    "network_module": Old(
        words={"networks.lora_wan": {}, "networks.lora": {}},
        why="LoRA; LoHa and LoKr are not here",
    ),
    "network_dim": Old("lora.rank", default="4"),
    "network_alpha": Old(
        "lora.alpha", default="1", why="musubi's default 1 is a weak adapter: strength is alpha / rank"
    ),
    "network_dropout": Old("lora.dropout"),
    "network_args": Old(many=True, why="NAME=VALUE words"),
    "network_args.include_patterns": Old(
        fate="impossible", why="remove it, and write lora.targets: a preset or a regular expression"
    ),
    "network_args.exclude_patterns": Old(
        fate="impossible", why="remove it, and write lora.targets: a preset or a regular expression"
    ),
    "network_args.loraplus_lr_ratio": Old(fate="impossible", why="remove it: A and B learn at one rate here"),
    "network_args.rank_dropout": Old(fate="impossible", why="remove it: --network_dropout alone is known here"),
    "network_args.module_dropout": Old(fate="impossible", why="remove it: --network_dropout alone is known here"),
    "network_args.verbose": Old(fate="elsewhere", why="`cinelora check` says what is adapted"),
    "network_weights": Old(
        fate="impossible",
        why="remove it: `cinelora train --resume` goes on exactly; or merge it: `cinelora lora apply`",
    ),
    "dim_from_weights": Old(
        fate="impossible", switch=True, default="unset", why="remove it: there are no weights to start from"
    ),
    "base_weights": Old(fate="impossible", many=True, why="merge them into the base first: `cinelora lora apply`"),
    "base_weights_multiplier": Old(fate="impossible", many=True, why="merge them first: `cinelora lora apply`"),
    "scale_weight_norms": Old(
        fate="impossible", why="remove it: train.clip_norm and lora.dropout hold an adapter back"
    ),
}

_NOISE = {
    "timestep_sampling": Old(words=_SAMPLED, default="sigma", why="how noise levels are drawn"),
    "discrete_flow_shift": Old(default="1.0", why="of sigma and shift alone"),
    "sigmoid_scale": Old(default="1.0", why="of sigmoid and shift alone"),
    "weighting_scheme": Old(
        words={
            "none": {},
            "logit_normal": {},
            "mode": {},
            "cosmap": {"noise.weighting": "cosmap"},
            "sigma_sqrt": {"noise.weighting": "sigma_sqrt"},
        },
        default="none",
        why="logit_normal and mode are of timestep_sampling sigma alone",
    ),
    "logit_mean": Old(default="0.0", why="of weighting_scheme logit_normal alone"),
    "logit_std": Old(default="1.0", why="of weighting_scheme logit_normal alone"),
    "mode_scale": Old(default="1.29", why="of weighting_scheme mode alone"),
    "min_timestep": Old("noise.t_min", by="thousandths"),
    "max_timestep": Old("noise.t_max", by="thousandths"),
    "preserve_distribution_shape": Old(
        fate="always",
        switch=True,
        why="levels outside the range are not drawn; without this musubi squeezed the others in",
    ),
    "num_timestep_buckets": Old(fate="always", why="levels are spread evenly over a micro-batch (noise.stratified)"),
    "show_timesteps": Old(fate="elsewhere", why=_NO_SETTING),
}

_TRAINING = {
    "max_train_steps": Old("train.steps", default="1600"),
    "max_train_epochs": Old("train.epochs", why="wins over max_train_steps"),
    "max_data_loader_n_workers": Old(fate="elsewhere", why="not needed: batches come from the cache"),
    "persistent_data_loader_workers": Old(fate="elsewhere", switch=True, why="not needed: batches come from the cache"),
    "seed": Old("train.seed"),
    "gradient_checkpointing": Old("train.gradient_checkpointing", by="flag", default="unset", switch=True),
    "gradient_checkpointing_cpu_offload": Old(
        switch=True, words={"set": {"memory.activations": "offload"}, "unset": {}}
    ),
    "gradient_accumulation_steps": Old("train.accumulation", default="1"),
    "mixed_precision": Old(
        words={
            "no": {"train.precision": "fp32"},
            "fp16": {"train.precision": "fp16", "model.dtype": "fp16"},
            "bf16": {"train.precision": "bf16", "model.dtype": "bf16"},
        },
        why="of the forward pass; the base in the same format",
    ),
    "optimizer_type": Old(
        words={
            "": {"train.optimizer": "adamw"},
            "AdamW": {"train.optimizer": "adamw"},
            "torch.optim.AdamW": {"train.optimizer": "adamw"},
            "AdamW8bit": {"train.optimizer": "adamw_8bit"},
            "bitsandbytes.optim.AdamW8bit": {"train.optimizer": "adamw_8bit"},
            "torch.optim.Adam": {"train.optimizer": "adam"},
            "bitsandbytes.optim.Adam8bit": {"train.optimizer": "adam_8bit"},
            "prodigyopt.Prodigy": {"train.optimizer": "prodigy"},
        },
        default="",
    ),
    "optimizer_args": Old(many=True, why="NAME=VALUE words"),
    "optimizer_args.weight_decay": Old("train.weight_decay"),
    "optimizer_args.betas": Old("train.betas", by="numbers"),
    "optimizer_args.eps": Old("train.eps"),
    "optimizer_args.decouple": Old("train.prodigy_decoupled"),
    "optimizer_args.use_bias_correction": Old("train.prodigy_bias_correction"),
    "optimizer_args.safeguard_warmup": Old("train.prodigy_safeguard_warmup"),
    "optimizer_args.beta3": Old("train.prodigy_beta3"),
    "learning_rate": Old("train.lr", default="2.0e-6"),
    "max_grad_norm": Old("train.clip_norm", default="1.0"),
    "lr_scheduler": Old(
        words={
            "constant": {"train.schedule": "constant"},
            "constant_with_warmup": {"train.schedule": "constant"},
            "linear": {"train.schedule": "linear"},
            "cosine": {"train.schedule": "cosine"},
            "cosine_with_restarts": {"train.schedule": "cosine_restarts"},
            "cosine_with_min_lr": {"train.schedule": "cosine"},
            "polynomial": {"train.schedule": "polynomial"},
        },
        default="constant",
    ),
    "lr_warmup_steps": Old("train.warmup_steps", by="steps", why="optimizer steps"),
    "lr_decay_steps": Old(fate="impossible", default="0", why="remove it: the schedule goes over the whole run"),
    "lr_scheduler_num_cycles": Old("train.num_cycles", default="1", why="of cosine_with_restarts alone"),
    "lr_scheduler_power": Old("train.power", default="1", why="of polynomial alone"),
    "lr_scheduler_timescale": Old(fate="impossible", why="remove it: it is of inverse_sqrt, which is not here"),
    "lr_scheduler_min_lr_ratio": Old(why="of cosine_with_min_lr alone"),
    "lr_scheduler_type": Old(fate="impossible", default="", why="remove it: classes of one's own are not here"),
    "lr_scheduler_args": Old(fate="impossible", many=True, why="remove it: classes of one's own are not here"),
}

_SPEED = {
    "compile": Old(switch=True, words={"set": {"speed.compile": True}, "unset": {}}, why="block by block"),
    **dict.fromkeys(
        ("sdpa", "flash_attn", "sage_attn", "xformers", "flash3", "split_attn"),
        Old(fate="elsewhere", switch=True, why="no setting: torch's own attention"),
    ),
    **dict.fromkeys(
        (
            "compile_fullgraph",
            "cuda_allow_tf32",
            "cuda_cudnn_benchmark",
            "dynamo_fullgraph",
            "dynamo_dynamic",
        ),
        Old(fate="elsewhere", switch=True, why=_NO_SETTING),
    ),
    **dict.fromkeys(
        (
            "compile_backend",
            "compile_mode",
            "compile_dynamic",
            "compile_cache_size_limit",
            "dynamo_backend",
            "dynamo_mode",
        ),
        Old(fate="elsewhere", why=_NO_SETTING),
    ),
}

_REPORT = {
    "logging_dir": Old(fate="elsewhere", why="all of a run is in its folder"),
    "log_with": Old(
        words={
            "tensorboard": {"report.trackers": ["tensorboard"]},
            "wandb": {"report.trackers": ["wandb"]},
            "all": {"report.trackers": ["tensorboard", "wandb"]},
        },
        why="the run's own page is written besides",
    ),
    "log_prefix": Old(fate="elsewhere", why="all of a run is in its folder"),
    "log_tracker_name": Old(fate="elsewhere", why="trackers are given the run's own name"),
    "wandb_run_name": Old(fate="elsewhere", why="trackers are given the run's own name"),
    "log_tracker_config": Old(fate="elsewhere", why="trackers read their own environment"),
    "wandb_api_key": Old(fate="elsewhere", why="`wandb login`: no key belongs into a recipe"),
    "log_config": Old(fate="always", switch=True, why="the run's folder has its whole recipe"),
    "ddp_timeout": Old(fate="elsewhere", why="no setting: ranks wait six hours for each other"),
    "ddp_gradient_as_bucket_view": Old(fate="elsewhere", switch=True, why="gradients go in one message"),
    "ddp_static_graph": Old(fate="elsewhere", switch=True, why="gradients go in one message"),
    "sample_prompts": Old(
        fate="elsewhere", why="write the file's prompts into preview.prompts, pictures into preview.images"
    ),
    "sample_every_n_steps": Old("preview.every_steps", why="once preview.prompts has something to draw"),
    "sample_every_n_epochs": Old("preview.every_epochs", why="once preview.prompts has something to draw"),
    "sample_at_first": Old("preview.before", by="flag", switch=True, why="once preview.prompts has something to draw"),
}

_SAVING = {
    "output_dir": Old(why="where runs lie"),
    "output_name": Old(why="the run's folder in output_dir"),
    "resume": Old(fate="elsewhere", why="`cinelora train --resume RUN`, which also goes on in the data where it stood"),
    "save_every_n_epochs": Old("train.keep_every_epochs", why="adapters that are kept for good"),
    "save_every_n_steps": Old("train.keep_every_steps", why="adapters that are kept for good"),
    "save_last_n_epochs": Old(fate="elsewhere", why="adapters of train.keep_every_epochs all stay"),
    "save_last_n_steps": Old(fate="elsewhere", why="adapters of train.keep_every_steps all stay"),
    "save_last_n_epochs_state": Old(fate="elsewhere", why="train.keep_last counts whole checkpoints"),
    "save_last_n_steps_state": Old(fate="elsewhere", why="train.keep_last counts whole checkpoints"),
    "save_state": Old(
        fate="always", switch=True, why="every checkpoint has the optimizer, too (train.save_every_steps)"
    ),
    "save_state_on_train_end": Old(fate="always", switch=True, why="the last checkpoint has the optimizer, too"),
    "no_metadata": Old(fate="elsewhere", switch=True, why="adapter files say their strength and base"),
    "training_comment": Old(fate="elsewhere", why=_TEXT),
    **dict.fromkeys(
        ("metadata_title", "metadata_author", "metadata_description", "metadata_license", "metadata_tags")
        + ("metadata_reso", "metadata_arch"),
        Old(fate="elsewhere", why=_TEXT),
    ),
    "huggingface_repo_id": Old("report.hub", by="text", why="OWNER/NAME"),
    "huggingface_repo_type": Old(fate="elsewhere", why=_HUB),
    "huggingface_path_in_repo": Old(fate="elsewhere", why=_HUB),
    "huggingface_token": Old(fate="elsewhere", why="`hf auth login`: no token belongs into a recipe"),
    "huggingface_repo_visibility": Old(fate="elsewhere", why="a new repository is private"),
    "save_state_to_huggingface": Old(fate="elsewhere", switch=True, why=_HUB),
    "resume_from_huggingface": Old(fate="elsewhere", switch=True, why=_HUB),
    "async_upload": Old(fate="elsewhere", switch=True, why=_HUB),
    "config_file": Old(why="its sections are put aside"),
    "dataset_config": Old(why="its datasets are the sources"),
}

_MUSUBI = Dialect(
    name="musubi",
    title="musubi-tuner",
    scripts=("wan_train_network.py",),
    keys=("network_module", "datasets.*.video_directory", "datasets.*.video_jsonl_file", "datasets.*.image_directory")
    + ("datasets.*.image_jsonl_file", "general.bucket_no_upscale"),
    reads=("config_file", "dataset_config"),
    flat=True,
    pairs=("network_args", "optimizer_args"),
    settings={
        **_MODEL,
        **_NETWORK,
        **_NOISE,
        **_TRAINING,
        **_SPEED,
        **_REPORT,
        **_SAVING,
        **DATASET_SETTINGS,
    },
    joint=(
        Joint(
            ("dit",), "model.base", by="text", when={"dit_high_noise": "unset"}, why="the rest is looked for beside it"
        ),
        Joint(
            ("dit",),
            "model.base",
            by="folder",
            when={"dit_high_noise": "set"},
            why="a folder with both experts, high_noise and low_noise in their names, and the other networks",
        ),
        Joint(("discrete_flow_shift",), "noise.shift", by="same", when={"timestep_sampling": "~^(sigma|shift)$"}),
        Joint(("sigmoid_scale",), "noise.logit_std", by="same", when={"timestep_sampling": "~^(sigmoid|shift)$"}),
        Joint(("logit_mean",), "noise.logit_mean", by="same", when=_BY_SCHEME | {"weighting_scheme": "logit_normal"}),
        Joint(("logit_std",), "noise.logit_std", by="same", when=_BY_SCHEME | {"weighting_scheme": "logit_normal"}),
        Joint(("mode_scale",), "noise.mode_scale", by="same", when=_BY_SCHEME | {"weighting_scheme": "mode"}),
        Joint(
            ("lr_scheduler_min_lr_ratio",),
            "train.final_lr_share",
            by="same",
            when={"lr_scheduler": "cosine_with_min_lr"},
        ),
        Joint(("output_dir", "output_name"), "run.folder", by="below"),
        *DATASET_JOINT,
    ),
    given=(
        Given({}, {"model.text_dropout": 0.0}, why="musubi dropped no caption; 0.1 keeps guidance working"),
        Given({}, {"lora.files": ["comfyui", "diffusers", "musubi"]}, why="musubi's layout, and those of others"),
        Given({"max_train_epochs": "set"}, {"train.steps": None}, why="max_train_epochs wins"),
        Given({"lr_scheduler": "constant"}, {"train.warmup_steps": None}, why="this schedule has no warm-up there"),
        Given(
            {"optimizer_type": "~(?i)^$|adamw", "optimizer_args.weight_decay": "unset"},
            {"train.weight_decay": 0.01},
            why="AdamW's own, where optimizer_args say nothing",
        ),
        Given(_BY_SCHEME | {"weighting_scheme": "logit_normal"}, {"noise.timesteps": "logit_normal"}),
        Given(_BY_SCHEME | {"weighting_scheme": "mode"}, {"noise.timesteps": "mode"}),
        Given({"task": "i2v-14B", "dit": "~720"}, {"model.variant": "i2v-14b-720p"}, why="told by the file's name"),
        Given({"task": "t2v-A14B", "dit": _HIGH}, {"model.variant": "2.2-t2v-high"}, why="told by the file's name"),
        Given({"task": "i2v-A14B", "dit": _HIGH}, {"model.variant": "2.2-i2v-high"}, why="told by the file's name"),
        Given({"task": "t2v-A14B", "dit_high_noise": "set"}, {"model.variant": "2.2-t2v-a14b"}, why="both experts"),
        Given({"task": "i2v-A14B", "dit_high_noise": "set"}, {"model.variant": "2.2-i2v-a14b"}, why="both experts"),
        *DATASET_GIVEN,
    ),
    always={
        "model.family": "wan",
        "lora.targets": "attention+ffn",
    },
    notes=(
        "musubi's two commands that fill its cache are not needed: `cinelora train` does it, and looks whether what it "
        "finds there is still right.",
        "Its cache knew clips by name and size alone, so that other captions, frames or encoders went unnoticed.",
        "Its --network_alpha is 1 unless set, which makes a weak adapter; alpha = rank is usual.",
        "Without source_fps it took frames as they came, so that motion changed its speed; here clips are resampled to "
        "the model's rate by timestamps.",
        "A share of the clips is kept apart for the held-out loss (data.held_out), which it did not have.",
    ),
)

DIALECTS: tuple[Dialect, ...] = (_MUSUBI,)
