import pytest
import torch
from wan_bases import SMALL

from cinelora.base.errors import RunError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.families.wan.card import CARD
from cinelora.families.wan.denoise import open_denoiser
from cinelora.families.wan.layouts import LORA_LAYOUTS
from cinelora.families.wan.pipeline import open_pipeline
from cinelora.lora.files import write_adapter
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.prove import check_loaded, prove, take_probe

DIFFUSERS, COMFYUI = LORA_LAYOUTS[:2]
X, T = torch.randn(2, 16, 2, 4, 4, generator=torch_rng("x")), torch.tensor([100.0, 900.0])
TEXT = {"text": torch.randn(2, 32, 64, generator=torch_rng("text"))}
PATTERNS = {"rank_pattern": {r"blocks\.1\..*": 6}, "alpha_pattern": {r".*to_v": 1.5, r"blocks\.0\.ffn.*": 8.0}}


def batch(count):
    return Batch(X, {"text": torch.randn(count, 32, 64)}, tuple(map(str, range(count))))


def test_text_is_dropped_for_the_stated_share_and_replaced_by_blank(small_base):
    denoiser = open_denoiser(str(small_base), SMALL, "fp32")
    denoiser.blank, denoiser.text_dropout = {"text": torch.full((32, 64), 7.0)}, 0.25
    clips = batch(400)
    text = denoiser.condition(clips, torch_rng(3))["text"]
    dropped = (text == 7.0).flatten(1).all(1)
    assert 70 <= dropped.sum() <= 130
    assert torch.equal(text[~dropped], clips.conditions["text"][~dropped])


def test_dropout_needs_the_blank_and_zero_does_not(small_base):
    denoiser = open_denoiser(str(small_base), SMALL, "fp32")
    with pytest.raises(RunError, match="empty caption"):
        denoiser.condition(batch(2), torch_rng(0))
    denoiser.text_dropout = 0.0
    clips = batch(2)
    assert torch.equal(denoiser.condition(clips, torch_rng(0))["text"], clips.conditions["text"])


def trained(base, dtype="fp32", **options):
    denoiser = open_denoiser(str(base), SMALL, dtype)
    chosen = LoraOptions(rank=4, targets="all-linears", **options)
    adapters = inject(denoiser.parts(), chosen, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.1 * torch.randn_like(weight))
    return denoiser, adapters


@pytest.mark.parametrize("layout", [DIFFUSERS, COMFYUI], ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "options",
    [{}, {"alpha": 3.0}, {"alpha": 0.7, "rslora": True}, PATTERNS, {"alpha": 2.0, "init": "pissa"}],
    ids=["plain", "alpha", "rslora", "patterns", "pissa"],
)
def test_files_give_what_was_trained(layout, options, small_base, tmp_path):
    denoiser, adapters = trained(small_base, **options)
    write_adapter(tmp_path / "a.safetensors", adapters.file(), layout)
    probe = take_probe(denoiser, X, T, TEXT)
    proof = prove(
        tmp_path / "a.safetensors",
        layout,
        probe,
        reopen=lambda: open_denoiser(str(small_base), SMALL, "fp32"),
        pipeline=open_pipeline,
    )
    assert proof.difference < 1e-3 * proof.effect


def test_dora_goes_through_diffusers(small_base, tmp_path):
    denoiser, adapters = trained(small_base, dora=True, alpha=2.0)
    write_adapter(tmp_path / "a.safetensors", adapters.file(), DIFFUSERS)
    proof = prove(
        tmp_path / "a.safetensors",
        DIFFUSERS,
        take_probe(denoiser, X, T, TEXT),
        reopen=lambda: open_denoiser(str(small_base), SMALL, "fp32"),
        pipeline=open_pipeline,
    )
    assert proof.difference < 1e-3 * proof.effect


@pytest.mark.parametrize("layout", [DIFFUSERS, COMFYUI], ids=lambda layout: layout.name)
def test_files_under_autocast(layout, small_base, tmp_path):
    denoiser, adapters = trained(small_base, alpha=2.0)
    write_adapter(tmp_path / "a.safetensors", adapters.file(), layout)
    with torch.autocast("cpu", torch.bfloat16):
        prove(
            tmp_path / "a.safetensors",
            layout,
            take_probe(denoiser, X, T, TEXT),
            reopen=lambda: open_denoiser(str(small_base), SMALL, "fp32"),
            pipeline=open_pipeline,
        )


@pytest.mark.parametrize("spoil", ["strength", "lost module"])
def test_small_errors_on_a_low_precision_base_are_found(spoil, small_base):
    """Effects far below the rounding of the output: only the loaded modules themselves tell."""
    denoiser, adapters = trained(small_base, "bf16", alpha=2.0)
    file = adapters.file()
    one = file.modules()[5]
    if spoil == "strength":
        adapters.layers[5].layer.scaling["default"] *= 1.1
    else:
        extra = {key.replace(one, "transformer.blocks.9.x"): file.tensors[key] for key in file.tensors if one in key}
        file = type(file)({**file.tensors, **extra}, {**file.alphas, "transformer.blocks.9.x": 1.0})
    with pytest.raises(RunError, match="1 of "):
        check_loaded(denoiser.parts(), file)
    check_loaded(trained(small_base, "bf16", alpha=2.0)[0].parts(), adapters.file())


@pytest.mark.parametrize("layout", [DIFFUSERS, COMFYUI], ids=lambda layout: layout.name)
def test_files_on_a_low_precision_base(layout, small_base, tmp_path):
    denoiser, adapters = trained(small_base, "bf16", alpha=2.0)
    write_adapter(tmp_path / "a.safetensors", adapters.file(), layout)
    prove(
        tmp_path / "a.safetensors",
        layout,
        take_probe(denoiser, X, T, TEXT),
        reopen=lambda: open_denoiser(str(small_base), SMALL, "bf16"),
        pipeline=open_pipeline,
    )


def test_wrong_strength_in_the_diffusers_header_is_found(small_base, tmp_path, monkeypatch):
    denoiser, adapters = trained(small_base, alpha=2.0)
    file = adapters.file()
    doubled = type(file)(file.tensors, {module: 2 * alpha for module, alpha in file.alphas.items()})
    write_adapter(tmp_path / "a.safetensors", doubled, DIFFUSERS)
    monkeypatch.setattr("cinelora.lora.prove.check_loaded", lambda *a, **k: None)
    with pytest.raises(RunError, match="does not give what was trained"):
        prove(
            tmp_path / "a.safetensors",
            DIFFUSERS,
            take_probe(denoiser, X, T, TEXT),
            reopen=lambda: open_denoiser(str(small_base), SMALL, "fp32"),
            pipeline=open_pipeline,
        )
