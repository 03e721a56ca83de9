"""Golden kinds of Wan with other options than the cases at hand: made here with diffusers' network and plain autograd.

Checked by the very checks of golden cases, so that a case of these options is judged by what it states.
"""

import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from golden_case import Case
from golden_wan import CHECKS, LORA_LAYOUTS, TEXT_LENGTH, WEIGHT_LAYOUTS, layout
from safetensors.torch import save_file
from torch.func import functional_call
from torch.nn.functional import pad

LORA = {"rank": 4, "alpha": 2, "targets": ["q", "k", "v", "ffn.0", "ffn.2"]}
SIZES = {"dim": 24, "ffn_dim": 48, "freq_dim": 32, "text_dim": 16, "num_heads": 2, "num_layers": 2, "text_len": 512}
CLIP_WIDTH = 20


def network(mode, *, clip):
    """A network of random weights, its reference's arguments, and its weights by native name."""
    channels = 48 if mode == "ti2v" else 16
    inputs = channels + (20 if mode == "i2v" else 0)
    image = {"image_dim": CLIP_WIDTH, "added_kv_proj_dim": 24} if clip else {}
    torch.manual_seed(3)
    net = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=inputs, out_channels=channels, text_dim=16,
        freq_dim=32, ffn_dim=48, num_layers=2, **image,
    )  # fmt: skip
    args = {**SIZES, "model_type": mode if mode != "normal" else "t2v", "in_dim": inputs, "out_dim": channels}
    return net, args, {name: weight.detach() for name, weight in net.state_dict().items()}


def drawn_adapter(net, endings):
    """Matrices by native name, of every linear module whose name ends so."""
    chosen = [(n, m) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(endings)]
    rng = torch.Generator().manual_seed(5)
    found = {}
    for name, module in chosen:
        found[f"{name}.lora_A.weight"] = torch.randn(4, module.in_features, generator=rng) / 5
        found[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 4, generator=rng) / 5
    return found


def merged(weights, adapter, scale):
    modules = [key.removesuffix(".lora_A.weight") for key in adapter if key.endswith(".lora_A.weight")]
    added = {m: scale * adapter[f"{m}.lora_B.weight"] @ adapter[f"{m}.lora_A.weight"] for m in modules}
    return {**weights, **{f"{m}.weight": weights[f"{m}.weight"] + more for m, more in added.items()}}


def originals(adapter, name="videox-peft"):
    return layout(LORA_LAYOUTS, name).from_native({f"transformer.{key}": one for key, one in adapter.items()})


def write_case(folder, config, files):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "tolerance": {"rtol": 1e-3, "atol": 1e-5}}))
    for name, tensors in files.items():
        save_file({key: one.detach().contiguous().clone() for key, one in tensors.items()}, folder / name)
    return Case(folder, f"wan/{folder.name}")


def training_case(folder, mode, *, clip=False, size=1.0, shift=5.0):
    """One step as the reference takes it; a TI2V in the branch without a picture."""
    net, args, weights = network(mode, clip=clip)
    adapter = drawn_adapter(net, ("to_q", "to_k", "to_v", "ffn.net.0.proj", "ffn.net.2"))
    for one in adapter.values():
        one.requires_grad_()
    rng = torch.Generator().manual_seed(9)

    def draw(*shape):
        return torch.randn(shape, generator=rng)

    channels, indices = args["out_dim"], [120, 700]
    clean, noise = size * draw(2, channels, 3, 4, 4), draw(2, channels, 3, 4, 4)
    u = 1 - torch.tensor(indices) / 1000
    sigmas = shift * u / (1 + (shift - 1) * u)
    prompts = {"prompt_0": draw(6, 16), "prompt_1": draw(9, 16)}
    level = sigmas.view(-1, 1, 1, 1, 1)
    x = (1 - level) * clean + level * noise
    io = {"latents": clean, "noise": noise, "sigmas": sigmas, "noisy_latents": x, "target": noise - clean}
    t, said, more = 1000 * sigmas, x, {}
    if mode == "ti2v":  # what the other branch would need lies there, too
        t = t[:, None].expand(2, 12)
        io |= {"condition_latents": draw(*clean.shape), "mask": torch.ones(2, 1, 3, 4, 4)}
    if mode == "i2v":
        io["condition_latents"] = draw(2, 20, 3, 4, 4)
        said = torch.cat([x, io["condition_latents"]], 1)
    if clip:
        io["clip_fea"] = more["encoder_hidden_states_image"] = draw(2, 257, CLIP_WIDTH)
    text = torch.stack([pad(one, (0, 0, 0, TEXT_LENGTH - len(one))) for one in prompts.values()])
    (output,) = functional_call(net, merged(weights, adapter, 0.5), (said, t, text), {**more, "return_dict": False})
    error = output - io["target"]
    loss = (error.square() * (error.abs() <= 50)).mean()
    loss.backward()
    norm = torch.stack([one.grad.norm() for one in adapter.values()]).norm()
    grads = {f"grad.{key}": one for key, one in originals({k: v.grad for k, v in adapter.items()}).items()}
    io |= {"timesteps_model": t, "model_output": output, "weighting": torch.ones(2), **prompts, **grads}
    io |= {"loss": loss.view(1), "grad_norm": norm.view(1)}
    base = layout(WEIGHT_LAYOUTS, "original").from_native(weights)
    held = {f"base.{k}": v for k, v in base.items()} | {f"lora.{k}": v for k, v in originals(adapter).items()}
    config = {
        "kind": "flow_training_step", "train_mode": mode, "scheduler_shift": shift, "reference_args": args,
        "lora": LORA, "timestep_indices": indices, "weighting_scheme": "none", "motion_sub_loss_ratio": None,
        "image_conditioned_branch": False if mode == "ti2v" else None, "error_threshold": 50,
    }  # fmt: skip
    return write_case(folder, config, {"io.safetensors": io, "weights.safetensors": held}), error


@pytest.mark.parametrize(
    ("mode", "options"),
    [("ti2v", {}), ("i2v", {}), ("i2v", {"clip": True, "shift": 3.0}), ("normal", {"size": 40.0, "shift": 12.0})],
)
def test_training_steps_of_other_options(tmp_path, mode, options):
    case, error = training_case(tmp_path / "case", mode, **options)
    assert (error.detach().abs().max() > 50) == ("size" in options)
    CHECKS[case.kind](case, tmp_path)


@pytest.mark.parametrize("file_format", [torch.float32, torch.bfloat16])
def test_a_network_file_of_every_linear_module_of_a_base_with_clip(tmp_path, file_format):
    """No target_name: the reference adapts every linear module, those around the blocks and of the picture, too."""
    net, args, weights = network("i2v", clip=True)
    adapter = {key: one.to(file_format).float() for key, one in drawn_adapter(net, "").items()}
    rng = torch.Generator().manual_seed(9)
    io = {"x": torch.randn(1, 16, 2, 4, 4, generator=rng), "y": torch.randn(1, 20, 2, 4, 4, generator=rng)}
    io |= {"t": torch.tensor([640.0]), "context_0": torch.randn(7, 16, generator=rng)}
    io["clip_fea"] = torch.randn(1, 257, CLIP_WIDTH, generator=rng)
    text = pad(io["context_0"], (0, 0, 0, TEXT_LENGTH - 7))[None]
    asked = (torch.cat([io["x"], io["y"]], 1), io["t"], text)
    whole = merged(weights, adapter, 0.5)
    given = {"encoder_hidden_states_image": io["clip_fea"], "return_dict": False}
    with torch.no_grad():
        for name, held in (("out_without_lora", weights), ("out_with_lora", whole)):
            (io[name],) = functional_call(net, held, asked, given)
    original = layout(WEIGHT_LAYOUTS, "original")
    base, changed = original.from_native(weights), original.from_native(whole)
    modules = [key.removesuffix(".lora_A.weight") for key in originals(adapter) if key.endswith(".lora_A.weight")]
    assert {"head.head", "time_projection.1", "img_emb.proj.3", "blocks.1.cross_attn.k_img"} <= set(modules)
    alphas = {f"{key.removesuffix('.lora_A.weight')}.alpha": torch.tensor(2.0) for key in adapter if "lora_A" in key}
    file = {key: one.to(file_format) for key, one in originals({**adapter, **alphas}, "videox").items()}
    config = {"kind": "lora_network_file", "reference_args": args, "adapted_modules": modules, "effective_scale": 0.5}
    files = {"io.safetensors": io, "weights.safetensors": base, "lora.safetensors": file}
    files["merged.safetensors"] = {f"{module}.weight": changed[f"{module}.weight"] for module in modules}
    case = write_case(tmp_path / "case", {**config, "file": "lora.safetensors"}, files)
    CHECKS[case.kind](case, tmp_path)
