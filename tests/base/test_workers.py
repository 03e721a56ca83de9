import threading
import time
import weakref

import pytest

from cinelora.base.workers import available_threads, each


def test_results_come_in_order_whatever_finishes_first():
    gate = threading.Event()

    def slow_first(number):
        if number == 0:
            assert gate.wait(5)
        elif number == 3:
            gate.set()
        return number * number

    assert list(each(slow_first, range(20), num_threads=2)) == [n * n for n in range(20)]
    assert list(each(slow_first, [], num_threads=2)) == []
    assert available_threads() >= 1


def test_an_item_that_hangs_is_given_up_and_the_rest_goes_on():
    release = threading.Event()

    def work(number):
        if number in (1, 4):
            release.wait(30)
        return number

    started = time.monotonic()
    results = list(each(work, range(8), num_threads=2, seconds=0.2))
    release.set()
    assert time.monotonic() - started < 10
    assert [r for r in results if not isinstance(r, TimeoutError)] == [0, 2, 3, 5, 6, 7]
    assert isinstance(results[1], TimeoutError)
    assert "0.2 s" in str(results[4])


def test_errors_are_raised_when_their_turn_comes():
    results = each(lambda n: 6 // (2 - n), range(4), num_threads=1)
    assert [next(results), next(results)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_more_is_read_ahead_than_threads_need():
    asked = []

    class Items(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    results = each(lambda n: n, Items(range(100)), num_threads=2)
    assert next(results) == 0
    assert max(asked) < 20
    results.close()


def test_threads_are_gone_when_the_results_are_there_or_not_wanted_any_more():
    before = threading.active_count()
    assert list(each(lambda n: n, range(50), num_threads=4)) == list(range(50))
    assert threading.active_count() == before
    results = each(lambda n: time.sleep(0.05), range(50), num_threads=4)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_a_number_of_items_ahead_bounds_what_is_held():
    started = []
    results = each(started.append, range(10), num_threads=1, num_ahead=2)
    for done in range(1, 9):
        next(results)
        time.sleep(0.01)
        assert len(started) <= done + 1
    results.close()


def test_an_idle_thread_holds_no_result():
    class Large:
        pass

    alive = []

    def make(number):
        large = Large()
        alive.append(weakref.ref(large))
        return large

    results = each(make, range(3), num_threads=1, num_ahead=1)
    for _ in range(3):
        next(results)
        assert sum(ref() is not None for ref in alive) == 1
    results.close()
    assert sum(ref() is not None for ref in alive) == 0
