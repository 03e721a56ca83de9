import pickle
from dataclasses import replace

import pytest

from cinelora.base.errors import DataError, RecipeError
from cinelora.data.cache import Cache
from cinelora.data.cache_work import WHOLE, Share, word_slots
from data.fake_media import Counted, encoding, slot


@pytest.fixture
def slots(tmp_path):
    return [slot(tmp_path / "clips", f"n{k}", caption=f"caption {k % 7}") for k in range(20)]


def test_shares_are_read_from_words():
    assert Share.of("2/4") == Share(2, 4)
    assert str(Share.of("2/4")) == "2/4"
    for wrong in ("0/4", "5/4", "2", "a/b", "-1/2", "1/2/3", ""):
        with pytest.raises(RecipeError, match="1/N to N/N"):
            Share.of(wrong)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_each_name_belongs_to_one_share_and_shares_are_about_equal(total):
    names = [f"clips/{k}.mp4" for k in range(700)]
    sizes = [sum(Share(number, total).has(name) for name in names) for number in range(1, total + 1)]
    assert sum(sizes) == len(names)
    assert all(0.7 * 700 / total < size < 1.3 * 700 / total for size in sizes)
    assert all(WHOLE.has(name) for name in names)


def test_shares_make_disjoint_entries_and_together_all(tmp_path, slots):
    made = []
    for number in (1, 2, 3):
        cache, encoder = Cache(tmp_path / "cache"), Counted()
        how = encoding(encoder)
        cache.make(cache.look(slots, how, share=Share(number, 3)), how)
        made.append(encoder.seen)
    assert sorted(name for seen in made for who, name in seen if who == "vae") == sorted(one.name for one in slots)
    assert sum(who == "text" for seen in made for who, _ in seen) == 7  # equal captions, though in several shares
    assert all(len(seen) > 2 for seen in made)
    assert Cache(tmp_path / "cache").fill(slots, encoding()).made == 0


def test_a_share_reads_no_media_of_others(tmp_path, slots):
    share = Share(1, 2)
    ours = [one for one in slots if share.has(one.record.key)]
    for one in slots:
        if one not in ours:
            one.record.media[0].unlink()
    todo = Cache(tmp_path / "cache").look(slots, encoding(), share=share)
    assert todo.problems == []
    assert len(todo.works[1].wanted) == len(ours) > 3
    assert len(Cache(tmp_path / "cache").look(slots, encoding()).problems) == len(slots) - len(ours)


def test_hands_deal_out_what_is_missing_evenly_and_travel(tmp_path, slots):
    cache, how = Cache(tmp_path / "cache"), encoding()
    cache.fill(slots[:9], how)
    todo = cache.look(slots, how)
    text, vae = todo.works
    assert (len(text.to_make), len(vae.to_make)) == (0, 11)
    hands = [pickle.loads(pickle.dumps(vae.dealt(k, 3))) for k in range(3)]
    assert sorted(len(hand.to_make) for hand in hands) == [3, 4, 4]
    assert sorted(key for hand in hands for key in hand.to_make) == sorted(vae.to_make)
    assert hands[1].wanted[hands[1].to_make[0]] == vae.wanted[vae.to_make[1]]
    assert todo.num_to_make == 11
    assert len(todo.keys) == 27


def test_words_without_a_clip_are_texts_alone(tmp_path):
    cache, encoder = Cache(tmp_path / "cache"), Counted()
    how = encoding(encoder)
    report = cache.fill(word_slots(["a", "b", "a", ""]), how)
    assert (report.made, encoder.asked("vae")) == (3, [])
    assert len(cache.captions(["b", ""], how)) == 2
    assert len(encoder.asked("text")) == 3


def test_looking_creates_nothing(tmp_path, slots):
    assert Cache(tmp_path / "cache").look(slots, encoding()).num_to_make == 27
    assert not (tmp_path / "cache").exists()


def test_problems_of_media_are_told_once_for_each_record_in_order(tmp_path, slots):
    variants = [replace(slots[0], variant=k) for k in range(2)]
    for one in (slots[0], slots[3]):
        one.record.media[0].unlink()
    with pytest.raises(DataError) as caught:
        Cache(tmp_path / "cache").fill([*variants, *slots[1:]], encoding(transform=lambda one: one.name))
    report = Cache(tmp_path / "cache").fill([*variants, *slots[1:]], encoding(), on_bad="skip")
    assert [one for one, _ in report.left_out] == [*variants, slots[3]]
    told = [problem.where for problem in caught.value.problems]
    assert [where.partition("record ")[2].rstrip(")") for where in told] == ["main/n0", "main/n3"]
