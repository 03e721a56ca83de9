import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import cinelora.families.wan as wan
from cinelora.base.errors import WeightsError
from cinelora.commands.cache import cache
from cinelora.commands.check import check

RECIPE = """
[model]
family = "wan"
variant = "tiny"
base = "base"
[[data.source]]
path = "clips"
[train]
steps = 1
device = "cpu"
precision = "fp32"
"""


def test_a_base_that_lacks_weights_is_told_before_anything_is_encoded(tmp_path, monkeypatch):
    from cinelora.commands.demo_clips import write_concept

    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(wan.__file__).parent / "tiny", tmp_path / "base")
    write_concept(tmp_path / "clips")
    (tmp_path / "r.toml").write_text(RECIPE)
    check(tmp_path / "r.toml", model=None, sets=[])
    file = tmp_path / "base" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "blocks.3.attn2.to_q" not in k}, file)
    for verb in (lambda: check(tmp_path / "r.toml", model=None, sets=[]), lambda: cache(tmp_path / "r.toml", sets=[])):
        with pytest.raises(WeightsError, match=r"lacks 2 weights") as caught:
            verb()
        assert "blocks.3.attn2.to_q.bias" in str(caught.value)
    assert not list(tmp_path.rglob("*.cache*/**/*.safetensors"))
    assert not (tmp_path / ".cinelora").exists()
