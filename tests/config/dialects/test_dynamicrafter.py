"""FDoKE's DynamiCrafter: its YAML and run.sh become the project's own recipe of them; other networks are refused."""

from pathlib import Path

import pytest
import tomli_w
import yaml

from cinelora.base.errors import RecipeError
from cinelora.config.load import load
from config.dialects.stand_ins import check_small, clip, keys_of, settled, texts

ROOT = Path(__file__).parents[3]
YAML = """
model:
  pretrained_checkpoint: checkpoints/dynamicrafter_512_v1/model.ckpt
  lora_path: none
  base_learning_rate: 1.0e-05
  scale_lr: False
  target: lvdm.models.ddpm3d.LatentVisualDiffusion
  params:
    rescale_betas_zero_snr: True
    parameterization: "v"
    linear_start: 0.00085
    linear_end: 0.012
    num_timesteps_cond: 1
    log_every_t: 200
    timesteps: 1000
    first_stage_key: video
    cond_stage_key: caption
    cond_stage_trainable: False
    image_proj_model_trainable: True
    conditioning_key: hybrid
    image_size: [40, 64]        # latents: height, width
    channels: 4
    scale_by_std: False
    scale_factor: 0.18215
    use_ema: False
    uncond_prob: 0.05
    uncond_type: 'empty_seq'
    rand_cond_frame: true
    use_dynamic_rescale: true
    base_scale: 0.7
    fps_condition_type: 'fps'
    perframe_ae: True
    unet_config:
      target: lvdm.modules.networks.openaimodel3d.UNetModel
      params:
        in_channels: 8
        out_channels: 4
        model_channels: 320
        attention_resolutions:
        - 4
        - 2
        - 1
        num_res_blocks: 2
        channel_mult:
        - 1
        - 2
        - 4
        - 4
        dropout: 0.1
        num_head_channels: 64
        transformer_depth: 1
        context_dim: 1024
        use_linear: true
        use_checkpoint: True
        temporal_conv: True
        temporal_attention: True
        temporal_selfatt_only: true
        use_relative_position: false
        use_causal_attention: False
        temporal_length: 16
        addition_attention: true
        image_cross_attention: true
        default_fs: 10
        fs_condition: true
    first_stage_config:
      target: lvdm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        monitor: val/rec_loss
        ddconfig:
          double_z: True
          z_channels: 4
          resolution: 256
          in_channels: 3
          out_ch: 3
          ch: 128
          ch_mult: [1, 2, 4, 4]
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: lvdm.modules.encoders.condition.FrozenOpenCLIPEmbedder
      params: {freeze: true, layer: penultimate}
    img_cond_stage_config:
      target: lvdm.modules.encoders.condition.FrozenOpenCLIPImageEmbedderV2
      params: {freeze: true}
    image_proj_stage_config:
      target: lvdm.modules.encoders.resampler.Resampler
      params:
        {dim: 1024, depth: 4, dim_head: 64, heads: 12, num_queries: 16, embedding_dim: 1280, output_dim: 1024,
         ff_mult: 4, video_length: 16}
data:
  target: utils_data.DataModuleFromConfig
  params:
    batch_size: 1
    num_workers: 12
    wrap: false
    train:
      target: lvdm.data.webvid.WebVid
      params:
        data_dir: ../train/         # as seen from main/
        meta_path: ../train/data.csv
        video_length: 16
        frame_stride: 1
        load_raw_resolution: true
        resolution: [320, 512]
        spatial_transform: resize_center_crop
        fixed_fps: 16
        random_fs: false
lightning:
  precision: 16
  optimize_matmul: True
  strategy: auto
  compile: True
  lora:
    enabled: True
    rank: 64
    alpha: 0.5
    dropout: 0.1
    skip_layers: []
    save_only_lora: True
  trainer:
    benchmark: True
    accumulate_grad_batches: 16
    max_steps: 100000
    log_every_n_steps: 5
    val_check_interval: 0.5
    gradient_clip_algorithm: 'norm'
    gradient_clip_val: 0.5
  callbacks:
    model_checkpoint:
      target: pytorch_lightning.callbacks.ModelCheckpoint
      params: {every_n_train_steps: 20, filename: "{epoch}-{step}", save_weights_only: True}
    metrics_over_trainsteps_checkpoint:
      target: pytorch_lightning.callbacks.ModelCheckpoint
      params: {filename: 'history-{epoch}-{step}', save_weights_only: True, every_n_epochs: 1, save_top_k: -1}
    batch_logger:
      target: callbacks.ImageLogger
      params:
        batch_frequency: 50000000   # never, in practice
        to_local: False
        max_images: 8
        log_images_kwargs:
          {ddim_steps: 50, unconditional_guidance_scale: 7.5, timestep_spacing: uniform_trailing,
           guidance_rescale: 0.7}
"""
"""Every key of the configuration for LoRA on the 512 base, with the values that the facts have of it."""
RUN = """
name="lora"
config_file=configs/${name}/config.yaml
save_root="../trained"
HOST_GPU_NUM=1 # how many

mkdir -p $save_root/$name
CUDA_VISIBLE_DEVICES=0,1,2,3 python3 -m torch.distributed.launch \\
--nproc_per_node=$HOST_GPU_NUM --nnodes=1 --master_addr=127.0.0.1 --master_port=12352 --node_rank=0 \\
./main/trainer.py \\
--base $config_file \\
--train \\
--name $name \\
--logdir $save_root \\
--devices $HOST_GPU_NUM \\
lightning.trainer.num_nodes=1
"""
TRAIN = ("data", "params", "train", "params")
MODEL = ("model", "params")


def changed(*changes):
    """The YAML with other values: (place, value) each; None takes a key out."""
    tables = yaml.safe_load(YAML)
    for place, value in changes:
        table = tables
        for name in place[:-1]:
            table = table.setdefault(name, {})
        if value is None:
            del table[place[-1]]
        else:
            table[place[-1]] = value
    return yaml.safe_dump(tables)


def flat(value, place=""):
    """{dotted key: value} of nested tables."""
    if not isinstance(value, dict):
        return {place: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{place}.{name}".strip(".")).items()}


def test_the_yaml_is_the_projects_own_recipe_of_it(tmp_path):
    done = settled(*texts(tmp_path, config__yaml=YAML))
    (tmp_path / "imported.toml").write_text(tomli_w.dumps(done.tables))
    ours = load(ROOT / "recipes" / "dynamicrafter-512.toml").recipe
    told, wanted = (flat(one.model_dump()) for one in (load(tmp_path / "imported.toml").recipe, ours))
    for key in ("data.source", "data.source.0"):
        told.pop(key, None), wanted.pop(key, None)
    assert {key: (told[key], wanted[key]) for key in wanted if told[key] != wanted[key]} == {
        "model.base": ("checkpoints/dynamicrafter_512_v1/model.ckpt", ""),  # ours names the Hub
        "model.dtype": ("fp32", "bf16"),  # ours takes half the memory
        "model.pace": ("fps", None),  # ours leaves it to the variant, which says so
        "train.precision": ("fp16", "bf16"),  # ours does not overflow
        "train.steps": (100000, 2000),  # there it is stopped by hand
        "preview.prompts": ([], ours.preview.prompts),  # there previews are off
        "preview.images": ([], ours.preview.images),
        "preview.every_steps": (0, 250),
        "preview.pace": (None, 24),
    }
    source, own = load(tmp_path / "imported.toml").recipe.data.source[0], ours.data.source[0]
    assert (source.path, source.media_root.rstrip("/")) == (own.path, own.media_root)
    assert source.reader == "webvid"


def test_run_sh_reads_the_yaml_that_it_names(tmp_path):
    source, _ = texts(tmp_path, run__sh=RUN, **{"configs/lora/config__yaml": YAML})
    alone, _ = keys_of(*texts(tmp_path, config__yaml=YAML))
    keys, rows = keys_of(source)
    assert keys == {**alone, "run.folder": "../trained/lora"}
    fates = {row.said[0].name: row.fate for row in rows if row.said}
    assert fates["devices"] == fates["lightning.trainer.num_nodes"] == "dead"
    assert fates["lightning.compile"] == fates["lightning.strategy"] == "dead"


def test_short_flags_and_overrides(tmp_path):
    words = "-b config.yaml -t -n mine -l ../out -s 7 lightning.lora.rank=8 data.params.batch_size=2"
    source, _ = texts(tmp_path, run__sh=f"python main/trainer.py {words}\n", config__yaml=YAML)
    keys, _ = keys_of(source)
    wanted = {"run.folder": "../out/mine", "train.seed": 7, "lora.rank": 8, "lora.alpha": 4, "train.micro_size": 2}
    assert {key: keys[key] for key in wanted} == wanted


ORIGINAL = (((*TRAIN, "fixed_fps"), None), ((*TRAIN, "frame_stride"), 6), ((*TRAIN, "random_fs"), True))
"""What the fork's guide calls DynamiCrafter's own values."""
LARGE = (((*MODEL, "image_size"), [72, 128]), ((*MODEL, "base_scale"), 0.3), ((*TRAIN, "resolution"), [576, 1024]))
SMALL = (
    ((*MODEL, "image_size"), [32, 32]),
    ((*MODEL, "parameterization"), "eps"),
    ((*MODEL, "rescale_betas_zero_snr"), False),
    ((*MODEL, "use_dynamic_rescale"), False),
    ((*MODEL, "fps_condition_type"), "fs"),
    ((*MODEL, "unet_config", "params", "image_cross_attention_scale_learnable"), True),
    ((*TRAIN, "resolution"), [256, 256]),
)
CASES = {
    "the original's clips": (ORIGINAL, {"data.fps": "source", "data.stride": 6, "data.stride_min": 1}),
    "fixed strides": (ORIGINAL[:2], {"data.fps": "source", "data.stride": 6, "data.stride_min": None}),
    "null is nothing": ((((*TRAIN, "fixed_fps"), "~"), *ORIGINAL[1:]), {"data.fps": "source", "data.stride": 6}),
    "1024": (LARGE, {"model.variant": "1024", "noise.rescale_to": 0.3, "data.size": [576, 1024]}),
    "256": (
        SMALL,
        {"model.variant": "256", "noise.prediction": "eps", "noise.rescale_to": 1.0, "model.pace": "stride"},
    ),
    "interpolation": ((((*MODEL, "interp_mode"), True),), {"model.variant": "512-interp"}),
    "skipped layers": (
        ((("lightning", "lora", "skip_layers"), ["time_embed", "fps_embedding"]),),
        {"lora.targets": r"(?!.*(time_embed|fps_embedding)).*", "lora.parts.resampler": "frozen"},
    ),
    "a running mean": ((((*MODEL, "use_ema"), True),), {"train.ema_decay": 0.9999}),
    "whole checkpoints": (((("lightning", "lora", "save_only_lora"), False),), {"train.kept": "checkpoint"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_other_values_become(name, tmp_path):
    changes, wanted = CASES[name]
    text = changed(*changes).replace("fixed_fps: '~'", "fixed_fps: ~")
    keys, _ = keys_of(*texts(tmp_path, config__yaml=text))
    assert {key: keys.get(key) for key in wanted} == wanted


WRONG = {
    "another length": ((*MODEL, "unet_config", "params", "temporal_length"), 24, "temporal_length"),
    "another network": ((*MODEL, "image_proj_stage_config", "params", "num_queries"), 8, "num_queries"),
    "another size": ((*MODEL, "image_size"), [48, 48], "image_size"),
    "a schedule": ((*MODEL, "scheduler_config", "target"), "utils.lr_scheduler.LambdaLRScheduler", "train.schedule"),
    "an adapter to go on from": (("model", "lora_path"), "old.ckpt", "merge it"),
    "a misspelt key": (("lightning", "lora", "rnak"), 8, "lightning.lora.rank"),
    "a word for a number": (("lightning", "lora", "alpha"), "half", "should be a number"),
    "the text encoder": ((*MODEL, "cond_stage_trainable"), True, "cache"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_with_its_line(name, tmp_path):
    place, value, word = WRONG[name]
    text = changed((place, value))
    line = next(n for n, one in enumerate(text.splitlines(), 1) if one.strip().startswith(f"{place[-1]}:"))
    with pytest.raises(RecipeError) as caught:
        keys_of(*texts(tmp_path, config__yaml=text))
    assert word in str(caught.value)
    if place[-1] not in ("image_size", "target"):  # a list's line is its own; there are other targets
        assert f"config.yaml:{line}" in str(caught.value)


def test_the_recipe_passes_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip(tmp_path / "train" / "videos" / "0007" / "001.mp4")
    texts(tmp_path, **{"train/data__csv": "videoid,contentUrl,duration,page_dir,name\n001,,,0007,a red ball\n"})
    source, _ = texts(tmp_path, run__sh=RUN, **{"configs/lora/config__yaml": YAML})
    check_small(tmp_path, source, model="dynamicrafter/tiny", **{"data.frames": [4]})
    skipped = changed(*CASES["skipped layers"][0])
    source = texts(tmp_path, config__yaml=skipped)[0]
    check_small(tmp_path, source, model="dynamicrafter/tiny", **{"data.frames": [4]})
