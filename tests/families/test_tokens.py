"""How long captions are in tokens, told without weights."""

import pytest
from transformers import AutoTokenizer
from wan_bases import SMALL

from cinelora.contracts.roles import CountsTokens
from cinelora.families.fake.encode import FakeText
from cinelora.families.wan.encode import clean, open_encoder

CAPTIONS = ["", "a red  ball", "x" * 200, "caf\u00c3\u00a9"]


def test_the_fake_tower():
    tower = FakeText()
    assert isinstance(tower, CountsTokens)
    assert (tower.tokens(CAPTIONS), tower.max_tokens) == ([1, 4, 2, 2], 6)


def test_wan_counts_uncut_and_reads_no_weights(small_base):
    tower = open_encoder(str(small_base), SMALL, "fp32").text
    assert isinstance(tower, CountsTokens)
    tokenizer = AutoTokenizer.from_pretrained(small_base / "tokenizer")
    wanted = [len(tokenizer(clean(caption)).input_ids) for caption in CAPTIONS]
    found = tower.tokens(CAPTIONS)
    assert found == wanted
    assert tower.net is None
    assert found[0] == 1
    assert found[2] > tower.max_tokens == SMALL.text_length
    assert tower.tokens([]) == []


def test_what_is_kept_is_the_count_up_to_the_limit(small_base):
    tower = open_encoder(str(small_base), SMALL, "fp32").text
    kept = (tower.embed(CAPTIONS).abs().sum(-1) > 0).sum(-1).tolist()
    assert kept == [min(count, tower.max_tokens) for count in tower.tokens(CAPTIONS)]


def test_towers_of_pixels_count_none():
    from cinelora.families.fake.encode import FakeVae

    assert not isinstance(FakeVae(), CountsTokens)


@pytest.mark.parametrize("caption", ["a", "a b", ""])
def test_a_tower_in_memory_counts_the_same(small_base, caption):
    tower = open_encoder(str(small_base), SMALL, "fp32").text
    before = tower.tokens([caption])
    tower.load("cpu")
    assert tower.tokens([caption]) == before
    tower.unload()
    assert tower.tokens([caption]) == before
