import json
import math
import re
from html import unescape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cinelora.report.curves import Chart, Frame, Series, figure, number, thinned, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 12))
@example(8.171997594712842, 441913.8293406853, 3)  # a coarser choice of distance has no tick inside at all
@example(-524288.155016718, 1e-06, 4)  # so narrow that doubles themselves are coarse
def test_ticks_are_few_but_enough_round_and_inside(low, span, most):
    high = low + span
    found = ticks(low, high, most)
    assert math.floor(most / 2.5) <= len(found) <= most
    # What doubles of this size cannot tell apart; found distances are measured by subtracting such doubles.
    blur = 4 * math.ulp(max(abs(low), abs(high)))
    assert all(low - 1e-6 * span - blur <= tick <= high + 1e-6 * span + blur for tick in found)
    if len(found) > 1:
        apart = (found[-1] - found[0]) / (len(found) - 1)
        scale = 10 ** math.floor(math.log10(apart) + 1e-3)
        assert min(abs(apart / scale - d) for d in (1, 2, 5, 10)) <= 1e-9 + blur / scale


def test_ticks_of_known_ranges():
    assert ticks(0, 100, 6) == [0, 20, 40, 60, 80, 100]
    assert ticks(0.31, 0.94, 5) == pytest.approx([0.4, 0.6, 0.8])
    assert ticks(3, 3, 5) == [3]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.5, "0.5"),
        (0.00012, "1.2e-4"),
        (1e-4, "1e-4"),
        (-2e-5, "-2e-5"),
        (0.002, "0.002"),
        (1.23456, "1.235"),
        (1234, "1234"),
        (12345, "12,345"),
        (2.5e7, "2.5e7"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=3000))
def test_thinning_keeps_order_ends_and_extremes(values):
    points = list(enumerate(values))
    kept = thinned(points, 100)
    assert len(kept) <= max(len(points) if len(points) <= 100 else 0, 106)
    assert kept == sorted(set(kept))
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    assert max(y for _, y in kept) == max(values)
    assert min(y for _, y in kept) == min(values)


def test_points_land_where_the_axes_say():
    frame = Frame(
        width=200, height=100, low=0, high=2, first_step=0, last_step=10, left=50, right=10, top=10, bottom=30
    )
    assert (frame.x(0), frame.x(5), frame.x(10)) == (50, 120, 190)
    assert (frame.y(0), frame.y(1), frame.y(2)) == (70, 40, 10)
    assert frame.y(99) == 10


def test_path_holds_the_points_and_the_marker_stands_on_one():
    held = Series("held out", [(0, 1.0), (50, 0.5), (100, 0.75)], "held", dots=True)
    drawn = figure(Chart("Loss", [held], 100, marker=(50, 0.5, "best 0.5")))
    wide = drawn[drawn.index("<svg") : drawn.index("</svg>")]
    path = re.search(r'<path d="M([^"]+)" class="held"', wide).group(1)
    xs, ys = zip(*[map(float, pair.split()) for pair in path.split("L")], strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.15)
    assert (ys[1] - ys[0]) == pytest.approx(2 * (ys[1] - ys[2]), abs=0.3)
    assert f'cx="{xs[1]}" cy="{ys[1]}" r="6"' in wide
    assert wide.count("<circle") == 3 + 1
    assert "best 0.5" in wide
    assert drawn.count("<svg") == 2


def test_a_spike_does_not_flatten_the_curve():
    raw = [(k, 1.0 + 0.1 * (k % 3)) for k in range(300)]
    raw[77] = (77, 500.0)
    drawn = figure(Chart("Loss", [Series("each step", raw, "raw")], 300))
    assert "1 single step lies above the frame" in drawn
    labels = [float(text) for text in re.findall(r'class="left">([\d.]+)<', drawn)]
    assert max(labels) < 2


def test_constant_and_single_values_can_be_drawn():
    for points in ([(1, 0.0)], [(1, 0.0), (2, 0.0)], [(1, -3.0), (2, -3.0)]):
        drawn = figure(Chart("x", [Series("x", points)], 2))
        assert "nan" not in drawn
        assert "<circle" in drawn or "<path" in drawn


def test_nothing_yet_is_said():
    assert "nothing yet" in figure(Chart("Loss", [Series("x", [])], 10))


def test_names_are_escaped_and_the_reading_is_json():
    series = Series('<b>"x"</b>', [(1, 2.0), (2, 3.5)])
    drawn = figure(Chart("<i>", [series, series], 2))
    assert "<i>" not in drawn
    assert drawn.count("<b>") == 1  # the title's own
    data = json.loads(unescape(re.search(r'data-points="([^"]*)"', drawn).group(1)))
    assert data[0] == ['<b>"x"</b>', [[1, "2"], [2, "3.5"]]]
