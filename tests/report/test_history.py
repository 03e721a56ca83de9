import pytest

from cinelora.report.history import history, smoothed, verdict


def step(number, loss=1.0, time=0.0, **more):
    return {"kind": "step", "time": time, "step": number, "loss": loss, **more}


def held(number, loss, **more):
    return {"kind": "held_out", "time": 0.0, "step": number, "loss": loss, **more}


START = {"kind": "start", "time": 0.0, "steps": 10}


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([], "not started"),
        ([START], "unfinished"),
        ([START, step(1), {"kind": "end", "time": 1.0}], "finished"),
        ([START, step(1), {"kind": "stop", "time": 1.0}], "stopped"),
        ([START, {"kind": "end", "time": 1.0, "stopped": True}], "stopped"),
        ([START, {"kind": "stop", "time": 1.0}, {"kind": "resume", "time": 2.0}, step(1)], "unfinished"),
        ([START, {"kind": "stop", "time": 1.0}, {"kind": "end", "time": 2.0}], "finished"),
        ([START, {"kind": "end", "time": 1.0}, {"kind": "export", "time": 2.0}], "finished"),
    ],
)
def test_status(events, status):
    assert history(events).status == status


def test_pauses_between_sessions_are_no_time():
    resume = {"kind": "resume", "time": 1000.0, "step": 2}
    found = history([START, step(1, time=5.0), step(2, time=9.0), resume, step(3, time=1004.0)])
    assert found.seconds == pytest.approx(9.0 + 4.0)
    assert found.resumes == [2]


def test_a_step_told_twice_counts_once_and_the_later_one():
    found = history([START, step(1, 3.0), step(2, 2.0), step(2, 1.5), held(2, 9.0), held(2, 8.0)])
    assert found.curves["loss"] == [(1, 3.0), (2, 1.5)]
    assert [one.loss for one in found.held_out] == [8.0]
    assert (found.step, found.num_steps) == (2, 10)


def test_numbers_that_are_not_finite_are_counted_not_drawn():
    found = history([START, step(1, "nan"), step(2, 1.0), held(2, "inf")])
    assert found.curves["loss"] == [(2, 1.0)]
    assert found.held_out == []
    assert len(found.notes) == 2
    assert any("1 steps have no finite loss" in note for note in found.notes)


def test_players_have_curves_of_their_own_and_the_first_to_learn_leads():
    told = [
        step(1, 3.0, player="generator", lr=0.1),
        step(1, 9.0, player="critic", lr=0.2),
        step(2, 8.0, player="critic", lr=0.2),
        step(3, 2.0, player="generator", lr=0.1),
        step(3, "nan", player="critic", lr=0.2),
    ]
    found = history([START, *told])
    assert (found.player, list(found.others)) == ("generator", ["critic"])
    assert found.curves["loss"] == [(1, 3.0), (3, 2.0)]
    assert found.others["critic"]["loss"] == [(1, 9.0), (2, 8.0)]
    assert found.others["critic"]["lr"] == [(1, 0.2), (2, 0.2), (3, 0.2)]
    assert len(found.notes) == 1
    alone = history([START, step(1, player="adapter"), step(2, player="adapter")])
    assert (alone.player, alone.others) == ("", {})
    assert len(alone.curves["loss"]) == 2


def test_skipped_steps_are_noted():
    skips = [{"kind": "skip", "time": 0.0, "step": k, "records": ["a"]} for k in (3, 4)]
    assert history([START, step(1), *skips]).notes == [
        "2 steps were skipped, since their numbers were not finite: 3, 4"
    ]


def test_best_is_the_earliest_of_the_lowest():
    assert history([held(0, 2.0), held(5, 1.0), held(9, 1.0)]).best.step == 5


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((), "No held-out loss was taken"),
        ((1.0,), "one value"),
        ((1.0, 1.2), "did not fall: 1 at step 0, 1.2 at step 10"),
        ((1.0, 0.6), "1 → 0.6 at step 10, 40% lower."),
        ((1.0, 0.5, 0.505), "1 → 0.5 at step 10, 50% lower."),
        ((1.0, 0.5, 0.8), "50% lower. It has risen to 0.8 since: the checkpoint of step 10"),
    ],
)
def test_verdict(losses, said):
    text = verdict(history([held(10 * k, loss) for k, loss in enumerate(losses)]))
    assert said in text
    assert ("risen" in text) == ("risen" in said)


def test_quantiles_come_as_table_or_list():
    found = history([held(0, 1.0, by_quantile={"0.25": 0.5, "x": None}), held(1, 1.0, by_quantile=[3.0, 4.0])])
    assert found.held_out[0].by_quantile == {"0.25": 0.5}
    assert found.held_out[1].by_quantile == {"1": 3.0, "2": 4.0}


def test_smoothing_has_no_bias_and_follows_its_formula():
    flat, span = smoothed([(k, 4.0) for k in range(500)])
    assert span == 20
    assert all(y == pytest.approx(4.0) for _, y in flat)
    ramp, span = smoothed([(0, 1.0), (1, 2.0), (2, 4.0), (3, 8.0), (4, 1.0), (5, 1.0), (6, 1.0), (7, 2.0)])
    assert span == 2
    share = 2 / 3
    weights = [share * (1 - share) ** k for k in range(3)]
    assert ramp[2][1] == pytest.approx((4 * weights[0] + 2 * weights[1] + 1 * weights[2]) / sum(weights))


def test_few_points_are_left_alone():
    assert smoothed([(1, 5.0), (2, 1.0)]) == ([(1, 5.0), (2, 1.0)], 1)
    assert smoothed([]) == ([], 1)
