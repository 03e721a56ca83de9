import pytest
import torch

from cinelora.base.errors import DataError, Problem, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.data.batches import batcher
from cinelora.data.cache import Cache
from cinelora.data.encoding import Live
from data.fake_media import Counted, encoding, slot


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_cached_and_live_runs_give_equal_batches(tmp_path, dtype):
    slots = [slot(tmp_path / "clips", name, caption=name) for name in "ab"]
    how = encoding(dtype=dtype)
    cache = Cache(tmp_path / "cache")
    cache.fill(slots, how)
    cached = batcher(cache.shelf(how.keys).read)(slots, torch_rng("micro"))
    live = batcher(Live(encoding(dtype=dtype)).read)(slots, torch_rng("micro"))
    assert torch.equal(cached.latents, live.latents)
    assert torch.equal(cached.conditions["text"], live.conditions["text"])
    assert cached.conditions["text"].dtype == live.conditions["text"].dtype
    assert cached.names == live.names


def test_a_tower_that_draws_gives_the_same_live_as_cached(tmp_path):
    class Drawing(Counted):
        def towers(self):
            text, vae = super().towers()
            vae.draws = True
            vae.inner.encode = lambda clips, rng=None: [
                {"mean": torch.randn(4, 2, 2, 2, generator=rng), "logvar": torch.zeros(4, 2, 2, 2)} for _ in clips
            ]
            return text, vae

    slots = [slot(tmp_path / "clips", name) for name in "ab"]
    how, cache = encoding(Drawing(), seed=3), Cache(tmp_path / "cache")
    cache.fill(slots, how)
    live = Live(encoding(Drawing(), seed=3))
    for one in slots:
        assert torch.equal(live.read(one).mean, cache.shelf(how.keys).read(one).mean)
    assert not torch.equal(live.read(slots[0]).mean, live.read(slots[1]).mean)


def test_live_reading_checks_the_card(tmp_path):
    one = slot(tmp_path / "clips", "a")
    with pytest.raises(WeightsError, match="does not give"):
        Live(encoding(conditions={}))
    with pytest.raises(WeightsError, match="another shape"):
        Live(encoding(conditions={"text": "6 9"})).read(one)


def test_padding_made_by_a_mask_is_stored_without_its_signs():
    class Masked(Counted):
        def towers(self):
            text, vae = super().towers()
            text.inner.encode = lambda clips, rng=None: [{"text": torch.full((6, 8), -1.0) * torch.eye(6)[:, :1]}]
            return text, vae

    how = encoding(Masked())
    how.encoder.in_memory.add("text")
    text = how.towers[0]
    given = how.run(text, how.clip_for(text, slot_of_text()))["text"]
    assert given[0].tolist() == [-1.0] * 8
    assert not given[1:].signbit().any()


def slot_of_text():
    from cinelora.data.cache_work import word_slots

    return word_slots(["words"])[0]


def test_a_clip_that_fails_in_the_loop_is_named_with_what_to_do(tmp_path):
    def broken(one):
        raise DataError(Problem("cannot decode", where=one.record.where, do="mend it"))

    one = slot(tmp_path / "clips", "a")
    with pytest.raises(DataError, match="cannot decode") as caught:
        Live(encoding(load=broken)).read(one)
    told = str(caught.value)
    assert f"where: {one.record.where}" in told
    assert "do: mend it; leave the clip out" in told
    assert "data.cache = 'on'" in told
