"""Checks of DynamiCrafter's golden cases of single networks, by kind, through the project's own code.

Weights are the published checkpoint's keys in halves; they are read as a base is: by layout, every key accounted for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from golden_case import Case
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from cinelora.contracts.roles import Layout
from cinelora.families.dynamicrafter.card import CARD, LARGE, MEDIUM, TINY
from cinelora.families.dynamicrafter.encode import FrameVae
from cinelora.families.dynamicrafter.layouts import (
    IMAGE_LAYOUTS,
    NETWORKS,
    RESAMPLER_LAYOUTS,
    TABLES,
    TEXT_LAYOUTS,
    UNET,
    VAE_LAYOUTS,
    WEIGHT_LAYOUTS,
)
from cinelora.families.dynamicrafter.nets.shape import shape_of
from cinelora.families.dynamicrafter.opening import build_resampler, build_unet
from cinelora.families.dynamicrafter.picture import ClipPicture
from cinelora.families.dynamicrafter.places import open_part
from cinelora.families.dynamicrafter.text import ClipText
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import linears, sizes
from cinelora.nets.weights import build, open_network, refuse_other


def near(found: torch.Tensor, wanted: torch.Tensor, what: str, *, rtol: float = 1e-4, atol: float = 1e-4) -> None:
    torch.testing.assert_close(
        found.detach().float(), wanted.float(), rtol=rtol, atol=atol, msg=lambda text: f"{what}\n{text}"
    )


def net_of(case: Case, net: torch.nn.Module, layouts: Sequence[Layout]) -> Any:
    """A network of `build` with the case's weights, fp32, in eval mode."""
    component = open_part(str(case.folder / "weights.safetensors"), "net", layouts)
    open_network(net, component, of=case.name, dtype_of=lambda name: torch.float32)
    return net


def traced(net: torch.nn.Module, places: Mapping[str, str]) -> dict[str, list[torch.Tensor]]:
    """What modules give, by the names that the case has for them, filled as the network runs."""
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in places}
    for name, place in places.items():
        net.get_submodule(place).register_forward_hook(lambda m, args, out, name=name: seen[name].append(out))
    return seen


UNET_PLACES = {"mid_after_init_attn": "init_attn", "mid_after_middle_block": "middle_block"}


def place_of(name: str) -> str:
    number = name.rpartition("_")[2]
    for kind in ("input_blocks", "output_blocks"):
        if name == f"mid_after_{kind[:-1]}_{number}":
            return f"{kind}.{number}"
    return UNET_PLACES[name]


@torch.no_grad()
def check_unet(case: Case, tmp_path: Path) -> None:
    assert case.config["mode"] == "eval"
    unet, io = net_of(case, build_unet(case.config["constructor"]), WEIGHT_LAYOUTS), case.io
    middle = [name for name in io if name.startswith("mid_") and name != "mid_emb"]
    seen = traced(unet, {name: place_of(name) for name in middle})
    asked = io["x"], io["timesteps"]
    fs, frames = io.get("fs"), io["x"].shape[2]
    near(unet(*asked, io["context"], fs), io["y"], "y")
    for name in middle:
        near(seen[name][0], io[name], name)
    if "mid_emb" in io:
        near(unet.embedded(io["timesteps"], fs).repeat_interleave(frames, 0), io["mid_emb"], "mid_emb")
    others = {"y_fs_none": (io["context"], None), "y_shared_context": (io["context"][:, :90], fs)}
    told = {name for name in io if name == "y" or name.startswith("y_")}
    assert told <= {"y", *others}, told
    for name in told & others.keys():
        near(unet(*asked, *others[name]), io[name], name)
    for name, wanted in case.config.get("outputs_std", {}).items():
        torch.testing.assert_close(float(io[name].std()), wanted, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def check_resampler(case: Case, tmp_path: Path) -> None:
    resampler, io = net_of(case, build_resampler(case.config["constructor"]), RESAMPLER_LAYOUTS), case.io
    assert set(io) <= {"x", "y", "mid_first_attention"}
    seen = traced(resampler, {"mid_first_attention": "layers.0.0"})
    near(resampler(io["x"]), io["y"], "y")
    if "mid_first_attention" in io:
        near(seen["mid_first_attention"][0], io["mid_first_attention"], "first attention")


def vae_network(constructor: Mapping[str, Any], scaling: float) -> dict[str, Any]:
    """diffusers' arguments for LDM's."""
    told = constructor["ddconfig"]
    expected = {"double_z": True, "in_channels": 3, "out_ch": 3, "attn_resolutions": [], "dropout": 0.0}
    assert {name: told[name] for name in expected} == expected
    assert constructor["embed_dim"] == told["z_channels"]
    return {
        "block_out_channels": [told["ch"] * factor for factor in told["ch_mult"]],
        "layers_per_block": told["num_res_blocks"],
        "latent_channels": told["z_channels"],
        "scaling_factor": scaling,
    }


def vae_of(base: Path, constructor: Mapping[str, Any], scaling: float) -> FrameVae:
    network = {**TINY.network, "vae": vae_network(constructor, scaling)}
    return FrameVae(str(base), replace(TINY, network=network), "fp32")


def check_autoencoder(case: Case, tmp_path: Path) -> None:
    """Frames are the clips' frames: B C H W of the case is C F H W of one clip."""
    io, scaling = case.io, case.config["scale_factor"]
    vae = vae_of(case.folder / "weights.safetensors", case.config["constructor"], scaling)
    told = {"x", "posterior_noise", "moments", "mean", "logvar", "std", "z_scaled", "kl", "decoded"}
    assert set(io) <= told
    pixels = io["x"].transpose(0, 1)
    mean, logvar = (part.transpose(0, 1) for part in vae.moments(pixels))
    near(mean, io["mean"], "mean")
    near(logvar, io["logvar"], "logvar")
    raw_mean, raw_logvar = io["moments"].chunk(2, dim=1)
    near(torch.cat([mean, logvar], 1), torch.cat([raw_mean, raw_logvar.clamp(-30, 20)], 1), "moments")
    near((0.5 * logvar).exp(), io["std"], "std")
    near(0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)), io["kl"], "kl")
    scaled, scaled_logvar = (part.transpose(0, 1) for part in vae.scaled(pixels))
    z = scaled + torch.exp(0.5 * scaled_logvar) * io["posterior_noise"]
    near(z, io["z_scaled"], "scaled sample")
    assert vae.net is not None
    with torch.no_grad():
        raw = vae.net.decode(io["z_scaled"] / scaling).sample
    near(raw, io["decoded"], "decoded")
    near(vae.decode(z.transpose(0, 1)[None])[0].transpose(0, 1), io["decoded"].clamp(-1, 1), "decoded by frames")


def tower_networks(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """transformers' arguments of the text and the image tower for open_clip's."""
    text, image = config["text_cfg"], config["vision_cfg"]
    assert set(text) == {"context_length", "vocab_size", "width", "heads", "layers"}
    assert set(image) <= {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"}
    texts = {"vocab_size": text["vocab_size"], "hidden_size": text["width"], "intermediate_size": 4 * text["width"]}
    inner = int(image.get("mlp_ratio", 4) * image["width"])
    images = {"image_size": image["image_size"], "patch_size": image["patch_size"], "hidden_size": image["width"]}
    return (
        {**texts, "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"]},
        {
            **images,
            "intermediate_size": inner,
            "num_hidden_layers": image["layers"],
            "num_attention_heads": image["width"] // image["head_width"],
        },
    )


def towers_of(base: Path, config: Mapping[str, Any]) -> tuple[ClipText, ClipPicture]:
    texts, images = tower_networks(config)
    text = ClipText(str(base), texts, length=config["text_cfg"]["context_length"], dtype="fp32")
    text.load("cpu")
    return text, ClipPicture(str(base), images, dtype="fp32", usual_pace=1)


def check_clip(case: Case, tmp_path: Path) -> None:
    io = case.io
    assert case.config["text_layer"] == "penultimate"
    assert set(io) <= {"image", "image_tokens", "preprocessed_every_7th_pixel", "text_embedding", "tokens"}
    text, picture = towers_of(case.folder / "weights.safetensors", case.config["open_clip_config"])
    near(text.hidden(io["tokens"]), io["text_embedding"], "text")
    seen = picture.seen(io["image"])
    near(seen[:, :, ::7, ::7], io["preprocessed_every_7th_pixel"], "preprocessed")
    near(picture.features(seen), io["image_tokens"], "image tokens")


def check_keys(case: Case, tmp_path: Path) -> None:
    """A file with the case's keys on the meta device is a whole base of this family's networks at full size."""
    keys, params = case.config_file("keys.json"), case.config["params_512"]
    assert len(keys) == case.config["keys"]
    file = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    assert {key for key in keys if not key.startswith(NETWORKS)} <= TABLES
    stage = params["first_stage_config"]["params"]
    variants = (MEDIUM, LARGE)
    changed = {**params["unet_config"]["params"], "default_fs": case.config["differences_1024"]["default_fs"]}
    for variant, asked in zip(variants, (params["unet_config"]["params"], changed), strict=True):
        network = variant.network
        assert replace(shape_of(network["unet"]), use_checkpoint=True) == shape_of(asked)
        assert network["resampler"] == params["image_proj_stage_config"]["params"]
        assert network["vae"]["block_out_channels"] == vae_network(stage, 0.18215)["block_out_channels"]
    check_meta_base(file)
    counts = case.config["parameter_counts"]
    unet = build_unet(MEDIUM.network["unet"])
    assert sum(weight.numel() for weight in unet.parameters()) == counts["model"]
    resampler = build_resampler(MEDIUM.network["resampler"])
    assert sum(weight.numel() for weight in resampler.parameters()) == counts["image_proj_model"]
    check_lora_modules(case, {"unet": unet})


def check_meta_base(file: Mapping[str, torch.Tensor]) -> None:
    """Every network takes its section of the file: names and shapes, and back again to the file's own."""
    network = MEDIUM.network
    text = CLIPTextConfig(max_position_embeddings=77, **network["text_encoder"])
    image = CLIPVisionConfig(**network["image_encoder"])
    networks = [
        (build_unet(network["unet"]), WEIGHT_LAYOUTS),
        (build_resampler(network["resampler"]), RESAMPLER_LAYOUTS),
        (build(lambda: CLIPTextModel(text)), TEXT_LAYOUTS),
        (build(lambda: CLIPVisionModel(image)), IMAGE_LAYOUTS),
        (build(lambda: vae_on_meta(network["vae"])), VAE_LAYOUTS),
    ]
    covered: set[str] = set()
    for net, layouts in networks:
        layout = next(one for one in layouts if one.reads(list(file)))
        native = layout.to_native(file)
        refuse_other(net, native, of=layout.name, where="the case")
        back = layout.from_native(native)
        assert {key: tuple(one.shape) for key, one in back.items()} == {key: tuple(file[key].shape) for key in back}
        covered |= back.keys()
    left = {key for key in file if key not in covered and key not in TABLES}
    endings = ("text_projection", "logit_scale", "proj", "positional_embedding", "token_embedding.weight")
    assert all(key.endswith((*endings, "ln_final.weight", "ln_final.bias")) for key in left), left


def vae_on_meta(network: Mapping[str, Any]) -> torch.nn.Module:
    count = len(network["block_out_channels"])
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    return AutoencoderKL(**kinds, **network)


def check_lora_modules(case: Case, parts: Mapping[str, torch.nn.Module]) -> None:
    """The preset "reference" wraps the linear layers that the reference trains, with the sizes it gives them."""
    rows = {row["module"]: row for row in case.config_file("lora_modules.json")["modules"]}
    wanted = {name.removeprefix(UNET): row for name, row in rows.items() if row["optimised"]}
    assert all(name.startswith(UNET) == row["optimised"] for name, row in rows.items())
    known = linears(parts["unet"])
    assert set(sizes("unet", parts["unet"], LoraOptions(targets="reference"), CARD.lora_presets)) == set(wanted)
    for name, row in wanted.items():
        linear = known[name]
        stated = row["in"], row["out"], row["bias"]
        assert stated == (linear.in_features, linear.out_features, linear.bias is not None), name


CHECKS: dict[str, Callable[[Case, Path], None]] = {
    "unet_forward": check_unet,
    "resampler_forward": check_resampler,
    "autoencoder": check_autoencoder,
    "clip_embedders": check_clip,
    "checkpoint_keys": check_keys,
}
