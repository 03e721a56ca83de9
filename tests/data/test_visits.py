from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cinelora.data.visits import Grouped, visit_order


def test_the_order_is_torchs_permutation_of_seed_plus_epoch():
    wanted = torch.randperm(12, generator=torch.Generator().manual_seed(43)).tolist()
    assert visit_order(12, 42, 1) == visit_order(12, 43, 0) == wanted
    assert visit_order(12, 42, 0) != wanted
    assert sorted(wanted) == list(range(12))
    assert visit_order(0, 1, 0) == []


def test_a_resumed_order_goes_on_and_one_beyond_the_end_begins_anew():
    whole = visit_order(12, 42, 0)
    assert visit_order(12, 42, 0, start=5) == whole[5:]
    assert visit_order(12, 42, 0, start=11) == whole[11:]
    assert visit_order(12, 42, 0, start=12) == visit_order(12, 42, 0, start=99) == whole


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(1, 5))
def test_groups_are_whole_of_one_key_in_order_and_nothing_is_lost(keys, size):
    grouped = Grouped(size)
    groups = [group for number, key in enumerate(keys) if (group := grouped.add(key, number))]
    assert all(len(group) == size and len({keys[n] for n in group}) == 1 for group in groups)
    assert grouped.num_waiting == len(keys) - size * len(groups)
    rest = grouped.take_rest()
    assert all(0 < len(group) < size for group in rest)
    assert grouped.num_waiting == 0
    assert grouped.take_rest() == []
    assert Counter(n for group in [*groups, *rest] for n in group) == Counter(range(len(keys)))
    for key in "abc":
        visited = [n for group in [*groups, *rest] for n in group if keys[n] == key]
        assert visited == sorted(visited)


def test_a_group_comes_with_its_last_item_and_left_overs_wait_for_the_next_pass():
    grouped = Grouped(2)
    assert [grouped.add(*one) for one in (("a", 1), ("b", 2), ("a", 3))] == [None, None, [1, 3]]
    assert grouped.add("b", 4) == [2, 4]
    grouped.add("b", 5)
    grouped.add("a", 6)
    assert grouped.take_rest() == [[5], [6]]


def test_a_group_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Grouped(0)
