import json
import math
import os
import signal
from itertools import pairwise

import pytest
import torch

from cinelora.base.errors import RunError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Loss
from cinelora.data.batches import batcher
from cinelora.train.checkpoint import checkpoints, read_adapters
from cinelora.train.held_out import HeldOut
from cinelora.train.loop import MAX_SKIPPED, Hook
from cinelora.train.options import HeldOutOptions, TrainOptions
from cinelora.train.schedules import factor
from train.fake_distill import distillation, method_of, tensors
from train.fake_run import Clipwise, Diary, Fixed, clipwise, exam, read, slots, trainer

ONES = [slot for slot in slots(20) if slot.bucket.frames == 5]


def weights(run):
    return {name: p.detach().clone() for name, p in run.work.method.parameters.items()}


def test_a_run_learns_tells_and_saves(tmp_path):
    diary = Diary()
    run = trainer(tmp_path, {"steps": 30, "micro_size": 4, "lr": 0.03}, tell=diary, held_out=exam(10))
    result = run.run()
    assert (result.step, result.total, result.stopped) == (30, 30, False)
    assert diary.events[0]["kind"] == "start"
    assert diary.events[0]["steps"] == 30
    assert diary.events[-1]["kind"] == "end"
    assert diary.of("step", "step") == list(range(1, 31))
    exams = diary.of("held_out", "loss")
    assert exams[-1] < 0.9 * exams[0]
    assert diary.of("held_out", "step") == [0, 10, 20, 30]
    assert result.best_loss == min(exams[1:])
    assert all(0 <= share <= 1 for share in diary.of("step", "data_wait_share"))
    assert min(diary.of("step", "clips_per_second")) > 0
    saved = read_adapters(tmp_path / "checkpoints" / "step-000030")
    assert saved.keys() == run.learners["adapter"].parameters.keys()
    assert all(torch.equal(saved[n], p) for n, p in run.learners["adapter"].parameters.items())


def test_accumulated_micros_are_one_batch_also_where_they_differ_in_size(tmp_path):
    whole = clipwise(tmp_path / "a", [tuple(ONES[:5])], {"steps": 3})
    parts = clipwise(tmp_path / "b", [tuple(ONES[:2]), tuple(ONES[2:4]), (ONES[4],)], {"steps": 3, "accumulation": 3})
    told = []
    for run in (whole, parts):
        diary = Diary()
        object.__setattr__(run.work, "tell", diary)
        run.run()
        told.append(diary)
    for name in ("loss", "grad_norm"):
        assert told[0].of("step", name) == pytest.approx(told[1].of("step", name), rel=1e-5)
    for name, found in weights(parts).items():
        assert torch.allclose(found, weights(whole)[name], atol=1e-6)


def test_one_step_is_the_adamw_step_of_the_clipped_mean_gradient(tmp_path):
    options = {
        "steps": 1,
        "accumulation": 2,
        "clip_norm": 0.05,
        "lr": 0.1,
        "weight_decay": 0.3,
        "betas": (0.5, 0.6),
        "eps": 0.01,
    }
    diary, hand = Diary(), Clipwise()
    run = clipwise(tmp_path, [(ONES[0], ONES[1]), (ONES[2],)], options, tell=diary)
    run.run()
    latents = batcher(read(), sample=False)(ONES[:3], torch_rng("none")).latents
    loss = hand.each(latents).mean()
    loss.backward()
    norm = torch.cat([p.grad.reshape(-1) for p in hand.parameters.values()]).norm()
    assert norm > 0.05
    assert diary.of("step", "grad_norm")[0] == pytest.approx(norm.item(), rel=1e-5)
    assert diary.of("step", "loss")[0] == pytest.approx(loss.item(), rel=1e-5)
    for name, decay in (("map", 0.3), ("shift", 0.0)):  # vectors are not decayed
        parameter = hand.parameters[name]
        gradient = parameter.grad * 0.05 / norm
        # First step of Adam: both means are unbiased, so m = g and sqrt(v) = |g|.
        wanted = parameter.detach() * (1 - 0.1 * decay) - 0.1 * gradient / (gradient.abs() + 0.01)
        assert torch.allclose(weights(run)[name], wanted, atol=1e-6)


def test_the_rate_follows_the_schedule_in_optimizer_steps(tmp_path):
    options = {"steps": 6, "accumulation": 2, "schedule": "cosine", "warmup_steps": 2, "lr": 0.2, "final_lr_share": 0.1}
    diary = Diary()
    clipwise(tmp_path, [(ONES[0],), (ONES[1],)], options, tell=diary).run()
    chosen = TrainOptions(**options)
    assert diary.of("step", "lr") == [0.2 * factor(chosen, made, 6) for made in range(6)]
    assert diary.of("step", "epoch") == [0, 1, 2, 3, 4, 5]


def test_both_players_rates_are_counted_in_optimizer_steps(tmp_path):
    """Accumulation does not meet the generator's interval: it learns in steps 1, 4 and 7, by the schedule of those."""
    diary = Diary()
    options = {"steps": 8, "accumulation": 2, "lr": 0.2, "schedule": "cosine", "warmup_steps": 2, "final_lr_share": 0.1}
    method = method_of(generator_every=3, critic_lr=0.4, critic_schedule="linear", critic_warmup_steps=3)
    distillation(tmp_path, [tuple(ONES[:2]), tuple(ONES[2:4])], options, method, tell=diary).run()
    told = {(e["player"], e["step"]): e["lr"] for e in diary.events if e["kind"] == "step"}
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * (made - 2) / 6)) / 2 for made in range(8)]
    generator = {1: 0.2 / 3, 4: 0.2 * cosine[3], 7: 0.2 * cosine[6]}
    linear = [0.1 + 0.9 * (1 - (made - 3) / 5) for made in range(8)]
    critic = {step: 0.4 * (step / 4 if step <= 3 else linear[step - 1]) for step in range(1, 9)}
    assert {step: lr for (player, step), lr in told.items() if player == "generator"} == pytest.approx(generator)
    assert {step: lr for (player, step), lr in told.items() if player == "critic"} == pytest.approx(critic)


def test_only_the_generator_is_averaged_and_a_resume_is_exact(tmp_path):
    options, micros = {"steps": 6, "ema_decay": 0.8, "save_every_steps": 3}, [tuple(ONES[:2]), tuple(ONES[2:4])]
    made = {}
    for name, lengths in (("whole", (6,)), ("parts", (3, 6))):
        for length in lengths:
            run = distillation(tmp_path / name, micros, {**options, "steps": length}, method_of(critic_schedule=None))
            run.resume()
            run.run()
        made[name] = dict(tensors(run.work.method)), run.learners["generator"].average.tensors
        assert run.learners["critic"].average is None
        last = checkpoints(tmp_path / name / "checkpoints")[-1]
        assert set(read_adapters(last, player="generator", averaged=True)) == set(made[name][1])
        assert read_adapters(last, player="critic", averaged=True) == {}
        assert read_adapters(last, player="critic")
    for whole, parts in zip(*made.values(), strict=True):
        assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())


def test_evaluating_hooks_and_saving_change_nothing_in_the_run(tmp_path):
    def disturb(step):
        torch.manual_seed(step)
        torch.rand(7)

    options = {"steps": 6, "micro_size": 2, "ema_decay": 0.5}
    plain, disturbed = Diary(), Diary()
    trainer(tmp_path / "a", options, tell=plain).run()
    trainer(
        tmp_path / "b", {**options, "save_every_steps": 1}, tell=disturbed, held_out=exam(1), hooks=[Hook(1, disturb)]
    ).run()
    for name in ("loss", "grad_norm"):
        assert plain.of("step", name) == disturbed.of("step", name)
    assert len(disturbed.of("held_out", "loss")) == 7


def test_no_two_micros_of_a_run_draw_the_same(tmp_path):
    draws, made = [], batcher(read())

    def batch(chosen, rng):
        draws.append((torch.rand(1, generator=rng.clone_state()).item(), torch.initial_seed()))
        return made(chosen, rng)

    trainer(tmp_path, {"steps": 4, "accumulation": 3}, batch=batch).run()
    assert len({value for value, _ in draws}) == 12
    assert len({seed for _, seed in draws[1:]}) == 11  # what dropout drew from, seen one micro later


def test_seed_decides_everything_and_another_seed_differs(tmp_path):
    diaries = [Diary() for _ in range(3)]
    for k, (diary, seed) in enumerate(zip(diaries, (1, 1, 2), strict=True)):
        torch.manual_seed(k)
        trainer(tmp_path / str(k), {"steps": 3, "seed": seed}, tell=diary).run()
    one, same, other = (diary.of("step", "loss") for diary in diaries)
    assert one == same
    assert one != other


def test_the_average_is_what_is_evaluated_and_what_hooks_see(tmp_path):
    seen = []
    run = clipwise(
        tmp_path, [(ONES[0],)], {"steps": 3, "ema_decay": 0.6}, hooks=[Hook(1, lambda step: seen.append(weights(run)))]
    )
    expected, trained = weights(run), []
    tell = Diary()
    object.__setattr__(
        run.work,
        "tell",
        lambda kind, **facts: (tell(kind, **facts), trained.append(weights(run)))[0] if kind == "step" else None,
    )
    run.run()
    for step, parameters in enumerate(trained, 1):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {n: decay * expected[n] + (1 - decay) * parameters[n] for n in expected}
        assert all(torch.allclose(seen[step - 1][n], expected[n], atol=1e-6) for n in expected)
    assert all(torch.equal(p, trained[-1][n]) for n, p in weights(run).items())
    saved = read_adapters(tmp_path / "checkpoints" / "step-000003", averaged=True)
    with run.averaged():
        assert all(torch.equal(saved[n], p) for n, p in weights(run).items())
    assert not torch.equal(saved["map"], weights(run)["map"])


class Spoilt(Clipwise):
    """Gives NaN for chosen clips, or a gradient that is not finite at a finite loss."""

    def __init__(self, names=(), *, gradient=False):
        super().__init__()
        self.names, self.gradient = names, gradient

    def loss(self, player, batch: Batch, rng, shared) -> Loss:
        each = self.each(batch.latents)
        bad = torch.tensor([name in self.names for name in batch.names])
        if self.gradient and bad.any():
            each = each + (self.parameters["map"][0, 0] * 0).sqrt()
        elif not self.gradient:
            each = torch.where(bad, torch.nan, each)
        return Loss(each.mean(), each.detach())


@pytest.mark.parametrize("gradient", [False, True])
def test_numbers_that_are_not_finite_stop_the_run_and_name_the_clip(tmp_path, gradient):
    micros = [(ONES[0], ONES[1]), (ONES[2], ONES[3])]
    method = Spoilt([ONES[2].name], gradient=gradient)
    run = clipwise(tmp_path, micros, {"steps": 4}, method=method)
    with pytest.raises(RunError, match="step 2") as caught:
        run.run()
    assert ONES[2].name in str(caught.value)
    assert ONES[0].name not in str(caught.value)
    assert (ONES[3].name in str(caught.value)) == gradient  # a gradient cannot be told clip by clip
    assert all(p.isfinite().all() for p in weights(run).values())
    assert checkpoints(tmp_path / "checkpoints") == []


def test_skipping_leaves_the_parameters_and_goes_on(tmp_path):
    micros = [(ONES[0],), (ONES[2],)]
    diary = Diary()
    run = clipwise(tmp_path, micros, {"steps": 4, "on_nonfinite": "skip"}, method=Spoilt([ONES[2].name]), tell=diary)
    assert run.run().step == 4
    assert diary.of("step", "step") == [1, 3]
    assert diary.of("skip", "records") == [[ONES[2].name]] * 2
    alone = clipwise(tmp_path / "alone", [(ONES[0],)], {"steps": 2})
    alone.run()
    assert all(torch.equal(p, weights(alone)[n]) for n, p in weights(run).items())


def test_too_many_skipped_in_a_row_stop_the_run_also_across_a_resume(tmp_path):
    method, options = Spoilt([ONES[0].name]), {"steps": 50, "on_nonfinite": "skip", "save_every_steps": 4}
    diary = Diary()
    with pytest.raises(RunError, match=f"step {MAX_SKIPPED}"):
        clipwise(tmp_path, [(ONES[0],)], options, method=method, tell=diary).run()
    assert len(diary.of("skip", "step")) == MAX_SKIPPED - 1
    again = clipwise(tmp_path, [(ONES[0],)], options, method=method)
    assert again.resume() == 8
    with pytest.raises(RunError, match=f"step {MAX_SKIPPED}"):
        again.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_ends(tmp_path, number):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    diary, called = Diary(), []

    def batch(chosen, rng):
        if len(diary.of("step", "step")) == 2:
            os.kill(os.getpid(), number)
        return made(chosen, rng)

    made = batcher(read())
    run = trainer(tmp_path, {"steps": 9}, tell=diary, batch=batch, hooks=[Hook(3, called.append)])
    result = run.run()
    assert (result.step, result.stopped) == (3, True)
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step-000003"]
    assert [event["kind"] for event in diary.events][-2:] == ["checkpoint", "stop"]
    assert called == []
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    resumed = Diary()
    more = trainer(tmp_path, {"steps": 9}, tell=resumed)
    assert more.resume() == 3
    assert more.run().step == 9
    whole = Diary()
    trainer(tmp_path / "whole", {"steps": 9}, tell=whole).run()
    assert diary.of("step", "loss") + resumed.of("step", "loss") == whole.of("step", "loss")


@pytest.mark.parametrize("stop_at", [2, 3, 6])
def test_a_signal_costs_no_evaluation(tmp_path, stop_at):
    """A stop comes before the evaluation that is due at its step; the resume takes it, and the best is the same."""
    options, losses = {"steps": 6, "micro_size": 2, "lr": 0.03}, []
    whole, made = Diary(), batcher(read())
    best = trainer(tmp_path / "whole", options, tell=whole, held_out=exam(2)).run()

    def batch(chosen, rng):
        if chosen[0].record.source == "main":
            losses.append(1)
            if len(losses) == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
        return made(chosen, rng)

    told, changes = Diary(), {"held_out": exam(2), "batch": batch}
    first = trainer(tmp_path / "run", options, tell=told, **changes).run()
    assert first.stopped == (stop_at < 6)
    again = trainer(tmp_path / "run", options, tell=told, **changes)
    again.resume()
    assert again.run() == best
    for name in ("step", "loss"):
        assert told.of("held_out", name) == whole.of("held_out", name)
    kept = [(tmp_path / run / "checkpoints" / "best.json").read_text() for run in ("whole", "run")]
    assert kept[0] == kept[1]


class Scripted(Clipwise):
    """Held-out losses as written down."""

    def __init__(self, losses):
        super().__init__()
        self.losses = iter(losses)

    def held_out_loss(self, batch, quantiles, rng):
        return Loss(torch.tensor(next(self.losses)), torch.zeros(1))


def test_the_best_is_marked_saved_and_kept(tmp_path):
    one_value = HeldOut([tuple(ONES[:1])], HeldOutOptions(every_steps=1, num_timesteps=1), seed=0)
    diary = Diary()
    method = Scripted([0.1, 5.0, 3.0, 4.0, float("nan"), 6.0, 3.0, 7.0])
    options = {"steps": 7, "save_every_steps": 1, "keep_last": 2}
    result = clipwise(tmp_path, [(ONES[0],)], options, method=method, held_out=one_value, tell=diary).run()
    assert diary.of("held_out", "best") == [False, True, True, False, False, False, False, False]
    assert (result.best_step, result.best_loss) == (2, 3.0)
    names = [path.name for path in checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-000002", "step-000006", "step-000007"]
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text()) == {"step": 2, "loss": 3.0}
    assert [e["step"] for e in diary.events if e["kind"] == "checkpoint" and e["best"]] == [1, 2]


@pytest.mark.parametrize(("kept", "names"), [("adapter", [8]), ("checkpoint", [3, 6, 8])])
def test_checkpoints_of_some_steps_are_kept_for_good_if_asked(tmp_path, kept, names):
    options = {"steps": 8, "save_every_steps": 4, "keep_last": 1, "keep_every_steps": 3, "kept": kept}
    trainer(tmp_path, options).run()
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [f"step-{k:06d}" for k in names]
    more = trainer(tmp_path, {**options, "steps": 9, "keep_every_steps": 0, "kept": "adapter"})
    assert more.resume() == 8
    more.run()
    left = [*names[:-1], 9]
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == [f"step-{k:06d}" for k in left]


def test_epochs_count_passes_over_the_data(tmp_path):
    run = trainer(tmp_path, {"epochs": 2, "micro_size": 2, "accumulation": 3})
    assert run.work.batches.micros_per_epoch == 4  # 3 clips of one size and 4 of another
    assert run.total == 3


@pytest.mark.parametrize("checkpointing", [True, False])
def test_half_precision_runs_with_adapters_in_fp32(tmp_path, checkpointing):
    diary = Diary()
    run = trainer(tmp_path, {"steps": 2, "precision": "bf16", "gradient_checkpointing": checkpointing}, tell=diary)
    run.run()
    assert all(p.dtype == torch.float32 for p in run.learners["adapter"].parameters.values())
    full = Diary()
    trainer(tmp_path / "full", {"steps": 2}, tell=full).run()
    assert diary.of("step", "loss") != full.of("step", "loss")
    assert diary.of("step", "loss") == pytest.approx(full.of("step", "loss"), rel=0.05)


def test_checkpointing_activations_changes_no_number(tmp_path):
    plain, twice = Diary(), Diary()
    trainer(tmp_path / "a", {"steps": 3}, tell=plain).run()
    trainer(tmp_path / "b", {"steps": 3, "gradient_checkpointing": True}, tell=twice).run()
    assert plain.of("step", "loss") == twice.of("step", "loss")  # dropout included


def test_micros_are_asked_for_in_order(tmp_path):
    asked = []

    class Watched(Fixed):
        def micro(self, index):
            asked.append(index)
            return super().micro(index)

    clipwise(tmp_path, [], {"steps": 3, "accumulation": 2}, batches=Watched([(ONES[0],), (ONES[1],)])).run()
    assert asked == list(range(6))
    assert all(b - a == 1 for a, b in pairwise(asked))


def scaled(folder, options, **changes):
    """A run with loss scaling, as fp16 has it (which the CPU does not)."""
    run = clipwise(folder, [(ONES[0],), (ONES[2],)], options, **changes)
    run.work.place.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    return run


def test_loss_scaling_changes_no_number_and_is_resumed(tmp_path):
    plain, big = Diary(), Diary()
    clipwise(tmp_path / "plain", [(ONES[0],), (ONES[2],)], {"steps": 6}, tell=plain).run()
    scaled(tmp_path / "whole", {"steps": 4}, tell=big).run()
    more = scaled(tmp_path / "whole", {"steps": 6}, tell=big)
    more.resume()
    assert more.work.place.scaler.get_scale() == 2048.0  # grown after three steps
    more.run()
    for name in ("loss", "grad_norm"):
        assert big.of("step", name) == pytest.approx(plain.of("step", name), rel=1e-5)


def test_a_gradient_that_overflows_lowers_the_scale_and_moves_nothing(tmp_path):
    diary = Diary()
    run = scaled(tmp_path, {"steps": 1, "ema_decay": 0.5}, method=Spoilt([ONES[0].name], gradient=True), tell=diary)
    before = weights(run)
    run.run()
    assert run.work.place.scaler.get_scale() == 512.0
    assert all(torch.equal(p, before[n]) for n, p in weights(run).items())
    assert all(torch.equal(p, before[n]) for n, p in run.learners["adapter"].average.tensors.items())
    assert diary.of("step", "step") == [1]


def test_a_skipped_loss_leaves_the_scaler_in_order(tmp_path):
    diary = Diary()
    run = scaled(tmp_path, {"steps": 3, "on_nonfinite": "skip"}, method=Spoilt([ONES[2].name]), tell=diary)
    run.run()
    assert (diary.of("step", "step"), diary.of("skip", "step")) == ([1, 3], [2])
