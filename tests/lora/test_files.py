import json
import stat

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RecipeError, RunError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import open_denoiser
from cinelora.families.fake.layouts import LORA_LAYOUTS, Prefixed
from cinelora.lora.files import HEADER_KEY, AdapterFile, cannot_carry, read_adapter, write_adapter, write_tensors
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.prove import prove, take_probe

DIFFUSERS, COMFYUI = LORA_LAYOUTS
FOLDED = Prefixed("peft", "", native="transformer.", strength="folded")
VARIANT = CARD.variants["tiny"]
X, T = torch.randn(2, 4, 3, 2, 2, generator=torch_rng("x")), torch.tensor([100.0, 700.0])
TEXT = {"text": torch.randn(2, 6, 8, generator=torch_rng("text"))}
Q0, Q1 = "transformer.blocks.0.to_q", "transformer.blocks.1.to_q"


def fake():
    return open_denoiser("embedded", VARIANT, "fp32")


def small_file():
    """Two modules of other ranks and strengths: 1.5 and 0.25."""
    torch.manual_seed(0)
    tensors = {
        f"{Q0}.lora_A.weight": torch.randn(2, 16),
        f"{Q0}.lora_B.weight": torch.randn(16, 2),
        f"{Q1}.lora_A.weight": torch.randn(4, 16),
        f"{Q1}.lora_B.weight": torch.randn(16, 4),
    }
    return AdapterFile(tensors, {Q0: 3.0, Q1: 1.0}, {"steps": "12", "base": "embedded"})


@pytest.mark.parametrize("layout", LORA_LAYOUTS, ids=lambda layout: layout.name)
def test_round_trip(layout, tmp_path):
    file = small_file()
    path = tmp_path / "out" / "a.safetensors"
    write_adapter(path, file, layout)
    back = read_adapter(path, LORA_LAYOUTS)
    assert back.tensors.keys() == file.tensors.keys()
    assert all(torch.equal(back.tensors[key], value) for key, value in file.tensors.items())
    assert back.alphas == file.alphas
    assert (back.scale(Q0), back.scale(Q1)) == (1.5, 0.25)
    assert back.metadata["steps"] == "12"
    assert back.metadata["format"] == "pt"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [child.name for child in path.parent.iterdir()] == ["a.safetensors"]


def test_comfyui_file_states_alpha_as_tensors(tmp_path):
    write_adapter(tmp_path / "a.safetensors", small_file(), COMFYUI)
    tensors = load_file(tmp_path / "a.safetensors")
    assert tensors["diffusion_model.blocks.0.to_q.alpha"].item() == 3.0
    assert tensors["diffusion_model.blocks.1.to_q.alpha"].shape == ()


def test_diffusers_header_is_what_peft_takes(tmp_path):
    from peft import LoraConfig

    write_adapter(tmp_path / "a.safetensors", small_file(), DIFFUSERS)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
    config = LoraConfig(**{key.removeprefix("transformer."): value for key, value in header.items()})
    assert (config.r, config.lora_alpha) == (2, 3)
    assert list(config.rank_pattern.values()) == [4]
    assert list(config.alpha_pattern.values()) == [1]
    assert set(config.target_modules) == {"blocks.0.to_q", "blocks.1.to_q"}


def test_header_of_another_trainer_with_rslora_is_read(tmp_path):
    header = {"transformer.r": 2, "transformer.lora_alpha": 3, "transformer.use_rslora": True}
    header["transformer.alpha_pattern"] = {"blocks.1.to_q": 8}
    save_file(dict(small_file().tensors), tmp_path / "a.safetensors", {HEADER_KEY: json.dumps(header)})
    back = read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS)
    assert back.scale(Q0) == pytest.approx(3 / 2**0.5)
    assert back.scale(Q1) == pytest.approx(8 / 4**0.5)


def test_layout_without_alpha_gets_the_strength_folded_in(tmp_path, caplog):
    file = small_file()
    write_adapter(tmp_path / "a.safetensors", file, FOLDED)
    back = load_file(tmp_path / "a.safetensors")
    for module, scale in ((Q0, 1.5), (Q1, 0.25)):
        bare = module.removeprefix("transformer.")
        product = back[f"{bare}.lora_B.weight"] @ back[f"{bare}.lora_A.weight"]
        expected = scale * file.tensors[f"{module}.lora_B.weight"] @ file.tensors[f"{module}.lora_A.weight"]
        torch.testing.assert_close(product, expected)
    again = read_adapter(tmp_path / "a.safetensors", [FOLDED])
    assert (again.scale(Q0), again.scale(Q1)) == (1.0, 1.0)
    assert not caplog.records
    again = read_adapter(tmp_path / "a.safetensors", [FOLDED], alpha=9.0)
    assert (again.scale(Q0), again.scale(Q1)) == (1.0, 1.0)
    assert "states its own strength for 2 modules: alpha = 9 is not taken" in caplog.text


def test_file_without_strength_takes_the_given_alpha_or_warns(tmp_path, caplog):
    save_file({k.removeprefix("transformer."): v for k, v in small_file().tensors.items()}, tmp_path / "a.safetensors")
    assert read_adapter(tmp_path / "a.safetensors", [FOLDED], alpha=1.0).alphas == {Q0: 1.0, Q1: 1.0}
    assert not caplog.records
    assert read_adapter(tmp_path / "a.safetensors", [FOLDED]).alphas == {Q0: 2.0, Q1: 4.0}
    assert "does not say its strength for 2 modules" in caplog.text
    assert "alpha 32 at rank 64, a strength of 0.5" in caplog.text
    assert "--alpha" in caplog.text


def test_alpha_in_kohyas_header_is_a_strength(tmp_path, caplog):
    bare = {k.removeprefix("transformer."): v for k, v in small_file().tensors.items()}
    save_file(bare, tmp_path / "a.safetensors", {"ss_network_alpha": "1.0", "ss_network_dim": "2"})
    assert read_adapter(tmp_path / "a.safetensors", [FOLDED]).alphas == {Q0: 1.0, Q1: 1.0}
    save_file(bare, tmp_path / "a.safetensors", {"ss_network_alpha": "Dynamic"})
    assert not caplog.records
    assert read_adapter(tmp_path / "a.safetensors", [FOLDED]).alphas == {Q0: 2.0, Q1: 4.0}
    assert len(caplog.records) == 1


def test_strange_keys_among_known_ones_are_named(tmp_path):
    odd = {"text.blocks.0.k.lora_A.weight": torch.zeros(2, 2), "blocks": torch.zeros(1)}
    save_file({**small_file().tensors, **odd}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="2 of 6 keys have no place in the layout diffusers") as error:
        read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS)
    assert "text.blocks.0.k.lora_A.weight" in str(error.value)


def test_dora_is_refused_where_it_cannot_be_carried(tmp_path):
    file = small_file()
    tensors = {**file.tensors, f"{Q0}.lora_magnitude_vector": torch.ones(16)}
    dora = AdapterFile(tensors, file.alphas)
    assert cannot_carry(file, COMFYUI) == ""
    assert "DoRA" in cannot_carry(dora, COMFYUI)
    with pytest.raises(RecipeError, match="DoRA"):
        write_adapter(tmp_path / "a.safetensors", dora, COMFYUI)
    assert not list(tmp_path.iterdir())


def broken(change):
    tensors = dict(small_file().tensors)
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop(f"{Q0}.lora_B.weight"), f"{Q0} has no lora_B"),
        (lambda d: d.pop(f"{Q1}.lora_A.weight"), f"{Q1} has no lora_A"),
        (lambda d: d.update({f"{Q0}.lora_A.weight": torch.zeros(3, 16)}), "do not fit each other"),
        (lambda d: d.update({f"{Q0}.diff_b": torch.zeros(16)}), "1 tensors change whole weights"),
        (lambda d: d.update({"other.weight": torch.zeros(1)}), "1 of 5 keys have no place in the layout diffusers"),
        (
            lambda d: [d.pop(f"{Q0}.lora_{m}.weight") for m in "AB"] + [d.update({f"{Q0}.alpha": torch.ones(())})],
            f"{Q0} has no lora_A",
        ),
        (lambda d: d.clear(), "no adapter layout"),
    ],
)
def test_broken_files(change, words, tmp_path):
    save_file(broken(change), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as error:
        read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS)
    assert words in str(error.value)


def test_unreadable_files(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not a file of tensors")
    for name in ("a.safetensors", "absent.safetensors"):
        with pytest.raises(WeightsError, match="cannot read"):
            read_adapter(tmp_path / name, LORA_LAYOUTS)


def trained(**options):
    denoiser = fake()
    adapters = inject(
        denoiser.parts(), LoraOptions(rank=4, **options), presets=CARD.lora_presets, default_preset="attention"
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.2 * torch.randn_like(weight))
    return denoiser, adapters


@pytest.mark.parametrize("layout", LORA_LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("options", [{"alpha": 2.0}, {"rslora": True}, {"init": "pissa"}])
def test_proof_passes_for_what_was_trained(layout, options, tmp_path):
    denoiser, adapters = trained(**options)
    denoiser.net.train()
    write_adapter(tmp_path / "a.safetensors", adapters.file(), layout)
    proof = prove(tmp_path / "a.safetensors", layout, take_probe(denoiser, X, T, TEXT), reopen=fake)
    assert proof.effect > 0.05
    assert proof.difference < 1e-4 * proof.effect
    assert denoiser.net.training


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: AdapterFile(file.tensors, {m: 2 * a for m, a in file.alphas.items()}),
        lambda file: AdapterFile({k: v for k, v in file.tensors.items() if "1.to_v" not in k}, file.alphas),
        lambda file: AdapterFile({**file.tensors, f"{Q0}.lora_B.weight": torch.full((16, 4), torch.nan)}, file.alphas),
    ],
    ids=["strength", "lost module", "nan"],
)
def test_proof_fails_loudly(spoil, tmp_path):
    denoiser, adapters = trained()
    write_adapter(tmp_path / "a.safetensors", spoil(adapters.file()), COMFYUI)
    with pytest.raises(RunError, match="does not give what was trained"):
        prove(tmp_path / "a.safetensors", COMFYUI, take_probe(denoiser, X, T, TEXT), reopen=fake)


def test_proof_names_keys_without_a_place(tmp_path):
    denoiser, adapters = trained()
    file = adapters.file()
    tensors = {key.replace("blocks.1", "blocks.9"): value for key, value in file.tensors.items()}
    alphas = {key.replace("blocks.1", "blocks.9"): value for key, value in file.alphas.items()}
    write_adapter(tmp_path / "a.safetensors", AdapterFile(tensors, alphas), COMFYUI)
    with pytest.raises(RunError, match=r"2 modules of the saved file are not in the base"):
        prove(tmp_path / "a.safetensors", COMFYUI, take_probe(denoiser, X, T, TEXT), reopen=fake)


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("cinelora.lora.files.save_file", full)
    with pytest.raises(RunError, match="No space left"):
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


ALPHA_HEADER = {"transformer.r": 2, "transformer.lora_alpha": 1}


@pytest.mark.parametrize(
    "stated",
    [
        "{broken",
        "[1]",
        json.dumps({**ALPHA_HEADER, "transformer.lora_alpha": "lots"}),
        json.dumps({**ALPHA_HEADER, "transformer.alpha_pattern": {"(((": 3}}),
        json.dumps({**ALPHA_HEADER, "transformer.alpha_pattern": [3]}),
    ],
)
def test_a_header_that_cannot_be_read_is_told(tmp_path, stated):
    path = tmp_path / "a.safetensors"
    save_file(dict(small_file().tensors), path, metadata={HEADER_KEY: stated})
    with pytest.raises(WeightsError, match="what the header says of the adapter's strength cannot be read") as error:
        read_adapter(path, LORA_LAYOUTS)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({f"{Q0}.alpha": torch.tensor(float("nan"))}, f"nan of {Q0}"),
        ({f"{Q0}.alpha": torch.tensor(float("inf"))}, f"inf of {Q0}"),
        ({f"{Q0}.alpha": torch.tensor(0.0), f"{Q1}.alpha": torch.tensor(-1.0)}, f"0 of {Q0} and 1 more"),
        ({f"{Q0}.alpha": torch.ones(3)}, "no single number"),
        ({f"{Q0}.lora_B.weight": torch.ones(16, 2, dtype=torch.int32)}, "no floating-point numbers"),
        ({f"{Q0}.lora_A.weight": torch.ones(0, 16), f"{Q0}.lora_B.weight": torch.ones(16, 0)}, "do not fit each other"),
    ],
)
def test_numbers_that_are_no_adapter_are_told(tmp_path, change, told):
    path = tmp_path / "a.safetensors"
    save_file({**small_file().tensors, **change}, path)
    with pytest.raises(WeightsError) as error:
        read_adapter(path, LORA_LAYOUTS)
    assert told in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("alpha", [0.0, -3.0, float("nan"), float("inf")])
def test_an_alpha_that_is_no_strength_is_refused(tmp_path, alpha):
    save_file(dict(small_file().tensors), tmp_path / "a.safetensors")
    with pytest.raises(RecipeError, match="--alpha"):
        read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS, alpha=alpha)
