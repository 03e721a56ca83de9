import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.cli.app import app
from cinelora.commands.lora_apply import Asked, apply
from cinelora.commands.lora_files import variant_near
from cinelora.families.dynamicrafter.adapter_layouts import LORA_LAYOUTS
from cinelora.families.dynamicrafter.card import CARD
from cinelora.lora.files import AdapterFile, write_adapter

Q, RATE = "model.diffusion_model.time_embed.0", "model.diffusion_model.fps_embedding.0"
PROJ, TEXT = "image_proj_model.proj_in", "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc"
MODULES = (Q, RATE, PROJ, TEXT)


def weights(prefix="", **renamed):
    found = {f"{module}.weight": torch.randn(4, 3, generator=torch.Generator().manual_seed(k))
             for k, module in enumerate(MODULES)}  # fmt: skip
    found["betas"] = torch.linspace(0, 1, 5)
    found["model.diffusion_model.time_embed.0.bias"] = torch.ones(4)
    for old, new in renamed.items():
        found = {key.replace(old, new): one for key, one in found.items()}
    return {prefix + key: one for key, one in found.items()}


def matrices(*modules, idle=()):
    found = {}
    for number, module in enumerate(modules):
        rng = torch.Generator().manual_seed(50 + number)
        found[f"{module}.lora_a.weight"] = torch.randn(2, 3, generator=rng)
        found[f"{module}.lora_b.weight"] = torch.randn(4, 2, generator=rng) * (module not in idle)
    return found


def delta(adapter, module):
    return adapter[f"{module}.lora_b.weight"] @ adapter[f"{module}.lora_a.weight"]


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "dynamicrafter_512_v1"
    folder.mkdir()
    torch.save({"state_dict": weights()}, folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture
def lora(tmp_path):
    save_file(matrices(*MODULES), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_the_sum_is_named_for_its_loader_and_all_else_stays(base, lora, tmp_path):
    written = apply(base, lora, Asked(alpha=0.5, out=tmp_path))
    assert written == tmp_path / "dynamicrafter_512_mine.safetensors"
    found, whole, adapter = load_file(written), weights(), matrices(*MODULES)
    assert found.keys() == whole.keys()
    for module in MODULES:
        key = f"{module}.weight"
        torch.testing.assert_close(found[key], whole[key] + 0.5 * delta(adapter, module))
    assert torch.equal(found["betas"], whole["betas"])
    with safe_open(written, "pt") as file:
        assert file.metadata()["merged_strength"] == "0.5"
        assert file.metadata()["merged_adapter"] == "mine.safetensors"


def test_the_seeds_names_are_an_option(base, lora, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = apply(base, lora, Asked(alpha=0.5, file_format="ckpt", original_names=True))
    assert str(written) == "model_mine_applied.ckpt"
    assert torch.load(written, weights_only=True).keys() == weights().keys()


def test_a_variant_that_nothing_tells_is_asked_for(lora, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(weights(), tmp_path / "base.safetensors")
    assert apply(tmp_path / "base.safetensors", lora, Asked(alpha=1)).name == "base_mine_applied.safetensors"
    assert "--model dynamicrafter/VARIANT" in capfd.readouterr().err
    named = apply(tmp_path / "base.safetensors", lora, Asked(alpha=1, model="dynamicrafter/512-interp"))
    assert named.name == "dynamicrafter_512_interp_mine.safetensors"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("dynamicrafter_512_v1/model.ckpt", "512"),
        ("DynamiCrafter_512_Interp/model.ckpt", "512-interp"),
        ("x/dynamicrafter_1024_v1_bf16.safetensors", "1024"),
        ("x/model.ckpt", None),
        ("256/dynamicrafter_512.ckpt", None),
    ],
)
def test_the_variant_of_a_base_by_its_name(tmp_path, path, name):
    found = variant_near(CARD, tmp_path / path)
    assert (found.name if found else None) == name


def test_a_strength_that_nobody_says_is_asked_for(base, lora, tmp_path):
    with pytest.raises(RecipeError, match=r"(?s)4 of the adapter's modules.*--alpha"):
        apply(base, lora, Asked(out=tmp_path))


def told(tmp_path, strength=0.25, layout=0):
    native = LORA_LAYOUTS[0].to_native(matrices(Q, RATE))
    alphas = dict.fromkeys(("unet.time_embed.0", "unet.fps_embedding.0"), strength * 2)
    path = tmp_path / f"told{layout}.safetensors"
    write_adapter(
        path, AdapterFile(native, alphas, {"family": "dynamicrafter", "variant": "512"}), LORA_LAYOUTS[layout]
    )
    return path


@pytest.mark.parametrize("layout", [0, 1])
def test_a_strength_that_the_file_says_is_taken(base, tmp_path, layout):
    found = load_file(apply(base, told(tmp_path, layout=layout), Asked(out=tmp_path)))
    torch.testing.assert_close(found[f"{Q}.weight"], weights()[f"{Q}.weight"] + 0.25 * delta(matrices(Q), Q))
    assert torch.equal(found[f"{PROJ}.weight"], weights()[f"{PROJ}.weight"])


def test_another_strength_than_the_trained_one_is_told(base, tmp_path, capfd):
    apply(base, told(tmp_path), Asked(alpha=1, out=tmp_path))
    assert "alpha = 1 is not the strength that the adapter was trained with, 0.25" in capfd.readouterr().err
    apply(base, told(tmp_path), Asked(alpha=0.25, out=tmp_path))
    assert "warning" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("whole", "rate"),
    [
        (weights(), RATE),
        (weights(fps_embedding="framestride_embed"), RATE.replace("fps_embedding", "framestride_embed")),
        (weights("_forward_module."), "_forward_module." + RATE),
        (weights("_forward_module.", fps_embedding="framestride_embed"),
         "_forward_module." + RATE.replace("fps_embedding", "framestride_embed")),
    ],
)  # fmt: skip
def test_every_spelling_of_a_base_is_found(tmp_path, whole, rate):
    torch.save({"module": whole}, tmp_path / "mp_rank_00.ckpt")
    save_file(matrices(Q, RATE, PROJ), tmp_path / "mine.safetensors")
    asked = Asked(alpha=2, out=tmp_path / "out.safetensors")
    found = load_file(apply(tmp_path / "mp_rank_00.ckpt", tmp_path / "mine.safetensors", asked))
    assert found.keys() == whole.keys()
    adapter = matrices(Q, RATE, PROJ)
    torch.testing.assert_close(found[f"{rate}.weight"], whole[f"{rate}.weight"] + 2 * delta(adapter, RATE))


def test_a_pruned_base_needs_no_place_for_adapters_that_do_nothing(tmp_path, capfd):
    pruned = {key: one.half() for key, one in weights().items() if not key.startswith("cond_stage")}
    save_file(pruned, tmp_path / "pruned.safetensors")
    save_file(matrices(Q, TEXT, idle=(TEXT,)), tmp_path / "mine.safetensors")
    asked = Asked(alpha=0.5, out=tmp_path / "out.safetensors", dtype="fp16")
    found = load_file(apply(tmp_path / "pruned.safetensors", tmp_path / "mine.safetensors", asked))
    assert {one.dtype for one in found.values()} == {torch.float16}
    wanted = pruned[f"{Q}.weight"].float() + 0.5 * delta(matrices(Q, TEXT), Q)
    torch.testing.assert_close(found[f"{Q}.weight"].float(), wanted, rtol=1e-3, atol=1e-3)
    assert "left out: 1 modules that the base does not have; they change nothing" in capfd.readouterr().err


def test_modules_without_a_place_are_refused_or_left_out_knowingly(tmp_path, capfd):
    pruned = {key: one for key, one in weights().items() if not key.startswith("cond_stage")}
    save_file(pruned, tmp_path / "pruned.safetensors")
    save_file(matrices(Q, TEXT), tmp_path / "mine.safetensors")
    asked = {"alpha": 0.5, "out": tmp_path / "out.safetensors"}
    with pytest.raises(WeightsError, match=r"(?s)no place for 1 of the adapter's 2.*c_fc"):
        apply(tmp_path / "pruned.safetensors", tmp_path / "mine.safetensors", Asked(**asked))
    assert not (tmp_path / "out.safetensors").exists()
    apply(tmp_path / "pruned.safetensors", tmp_path / "mine.safetensors", Asked(**asked, allow_missing=True))
    assert "1 of them would change something" in capfd.readouterr().err


def test_an_adapter_of_something_else_is_refused(base, tmp_path):
    save_file(matrices("transformer.blocks.0.attn1.to_q"), tmp_path / "wan.safetensors")
    with pytest.raises(WeightsError, match="no place for 1"):
        apply(base, tmp_path / "wan.safetensors", Asked(alpha=1, out=tmp_path))
    with pytest.raises(WeightsError, match="no place for 1"):
        apply(base, tmp_path / "wan.safetensors", Asked(alpha=1, out=tmp_path, allow_missing=True))


def test_a_base_in_place_of_an_adapter_is_refused(base, tmp_path):
    with pytest.raises(WeightsError, match="are no adapter's"):
        apply(base, base, Asked(alpha=1, out=tmp_path))


def test_words_that_do_not_fit_are_refused(base, lora, tmp_path):
    with pytest.raises(RecipeError, match="number format"):
        apply(base, lora, Asked(alpha=1, dtype="int8"))
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(RecipeError, match="alpha is no number"):
            apply(base, lora, Asked(alpha=alpha, out=tmp_path / "out"))
    with pytest.raises(RecipeError, match=r"(?s)no such format.*out\.pth.*safetensors, ckpt"):
        apply(base, lora, Asked(alpha=1, out=tmp_path / "out.pth"))
    with pytest.raises(WeightsError, match=r"(?s)no adapter of wan.*leave --model out"):
        apply(base, lora, Asked(alpha=1, out=tmp_path / "out", model="wan/tiny"))
    assert not list(tmp_path.glob("out*"))
    with pytest.raises(RecipeError, match="no such family"):
        apply(base, lora, Asked(alpha=1, model="dynamicrafted/512"))
    with pytest.raises(RecipeError, match="replace what it is made of"):
        apply(base, lora, Asked(alpha=1, out=lora))
    assert load_file(lora).keys() == matrices(*MODULES).keys()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"lora_adapter_metadata": "{"}, "strength cannot be read"),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": Infinity}'}, "strength is no number"),
        ({"family": "dynamicrafter", "full_parts": '["vae"]'}, "whose weights are not here"),
    ],
)
def test_damaged_headers_are_told_and_nothing_is_written(base, tmp_path, header, message):
    save_file(matrices(Q), tmp_path / "odd.safetensors", header)
    with pytest.raises(WeightsError, match=message):
        apply(base, tmp_path / "odd.safetensors", Asked(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_none_never_reach_the_base(base, tmp_path):
    adapter = matrices(Q)
    adapter[f"{Q}.lora_b.weight"][0, 0] = float("nan")
    save_file(adapter, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"(?s)not finite.*time_embed"):
        apply(base, tmp_path / "odd.safetensors", Asked(alpha=1, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_the_words(base, lora, tmp_path):
    words = ["lora", "apply", "--base_model", str(base), "--lora", str(lora), "--alpha", "0.5", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, [*words, "--format", "ckpt", "--original-names"]).exit_code == 0
    assert (tmp_path / "model_mine_applied.ckpt").is_file()
    assert CliRunner().invoke(app, ["lora", "apply", "--base", str(base)]).exit_code == 2
