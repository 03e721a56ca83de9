"""The lines that draw with a distilled adapter in diffusers: on the very levels of training."""

import json

import pytest
import torch
from diffusers import FlowMatchLCMScheduler

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.nets.usage import diffusers_usage
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions
from cinelora.report.events import Events
from cinelora.report.few_steps import few_steps
from cinelora.report.model_card import card_text
from cinelora.report.page import page_text
from cinelora.report.run_folder import read_run
from report.parsed import Page
from report.test_page import make_run


class Pipe:
    scheduler: FlowMatchLCMScheduler


def recipe(steps=(1000, 750, 500, 250), *, compat="none", **noise):
    method = {"name": "distill", "denoising_steps": list(steps), "compat": compat}
    return {"method": method, "noise": {"kind": "flow", **noise}}


def scheduler_of(found) -> FlowMatchLCMScheduler:
    """What the lines make, after a pipeline has asked it for its steps as Wan's does."""
    pipe = Pipe()
    exec(found.lines, {"pipe": pipe})
    pipe.scheduler.set_timesteps(len(found.times), device="cpu")
    return pipe.scheduler


@pytest.mark.parametrize("steps", [(1000, 750, 500, 250), (1000, 757, 522), (900, 33)])
@pytest.mark.parametrize("noise", [{"shift": s} for s in (3.0, 5.0, 12.0)] + [{"shift": 5.0, "t_max": 0.9}])
def test_the_scheduler_has_the_levels_of_training_and_makes_the_same_steps(steps, noise):
    scheduler = scheduler_of(few_steps(recipe(steps, **noise)))
    process = Flow(NoiseOptions(**noise))
    torch.testing.assert_close(scheduler.sigmas[:-1], process.timesteps.levels(steps), rtol=0, atol=1e-6)
    ours = process.sampler(len(steps), "renoise", steps)
    start = ours.start((1, 4, 1, 2, 2), torch_rng("clip"))
    x, theirs, rng = start, start, torch_rng("clip")
    torch.randn(start.shape, generator=rng)
    for k, (t, other) in enumerate(zip(ours.times(), scheduler.timesteps, strict=True)):
        said = torch.randn(start.shape, generator=torch_rng("said", k))
        x = ours.step(said, t, x)
        theirs = scheduler.step(said, other, theirs, generator=rng, return_dict=False)[0]
    torch.testing.assert_close(theirs, x, rtol=1e-4, atol=1e-4)


def test_left_alone_the_scheduler_walks_elsewhere():
    """Why the lines hand the levels over."""
    alone = FlowMatchLCMScheduler(shift=5.0)
    alone.set_timesteps(4)
    assert (alone.sigmas[:-1] - torch.tensor([1.0, 0.9375, 0.8333, 0.625])).abs().max() > 0.3


def test_compat_learns_places_of_the_whole_range():
    assert few_steps(recipe((1000, 500), compat="videox", shift=5.0, t_max=0.9)).times == (1.0, 0.5)


def test_who_learned_no_steps_has_none_and_a_broken_noise_is_told():
    assert few_steps({}) is few_steps({"method": {"name": "finetune"}}) is None
    with pytest.raises(RecipeError, match="noise"):
        few_steps(recipe(shift=-1.0))


def distilled(folder):
    """A run folder of a distillation."""
    run = make_run(folder)
    text = '[method]\nname = "distill"\ndenoising_steps = [1000, 500]\n[noise]\nkind = "flow"\nshift = 3.0\n'
    (run / "recipe.toml").write_text((run / "recipe.toml").read_text() + text)
    (run / "events.jsonl").unlink()
    events = Events(run / "events.jsonl")
    events.tell("start", step=0, steps=9)
    for step in range(1, 10):
        for player in ("generator", "critic") if step % 2 else ("critic",):
            events.tell("step", step=step, player=player, loss=1.0 / step, lr=1e-4, grad_norm=1.0)
    return run


def test_page_and_card_show_the_lines_and_the_critics_curve(tmp_path):
    run = read_run(distilled(tmp_path / "run"))
    page = Page(page_text(run))
    for said in ("Loss, generator", "Loss, critic", "FlowMatchLCMScheduler(shift=3)", "sigmas=[1, 0.5]"):
        assert said in page.text
    figures = [json.loads(a["data-points"]) for _, a in page.elements if "data-points" in a]
    critics = [found for found in figures if any(len(points) == 9 for _, points in found)]
    assert critics
    assert ["generator", "critic"] in [[name for name, _ in found] for found in figures]  # learning rates
    numbers = dict(frames=9, height=64, width=64, fps="8", guidance=1.0, num_steps=30, base="b")
    card = card_text(run, repository="me/r", usage=diffusers_usage(), numbers=numbers)
    code = card.split("```python")[1].split("```")[0]
    compile(code, "card", "exec")
    assert code.index("load_lora_weights") < code.index("pipe.scheduler = scheduler") < code.index("video = pipe(")
    assert "num_inference_steps=2" in code
