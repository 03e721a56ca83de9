"""Checks of Framer's golden cases about tracks: heat maps, trajectories, and the whole interpolation."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from cinelora.contracts.flow import Tracks
from cinelora.families.framer.card import CARD
from cinelora.families.framer.encode import open_encoder
from cinelora.families.framer.interpolate import Given, Interpolation, Interpolator, look_at
from cinelora.families.framer.opening import open_denoiser
from cinelora.nets.heat import heat_maps, template
from cinelora.nets.trajectories import WholeMap, found_again, through


def check_heat_maps(case, tmp_path):
    """Every level exactly: the template, and the map of every item."""
    assert set(case.config) <= {"kind", "class", "items", "provenance", "tolerance", "seed"}
    io = {name: tensor.numpy() for name, tensor in case.io.items()}
    assert np.array_equal(template(), io["template"])
    assert case.config["items"]
    for name, item in case.config["items"].items():
        assert set(item) <= {"size_wh", "side"}, item
        width, height = item["size_wh"]
        visible = io.get(f"{name}.visible")
        seen = None if visible is None else visible.astype(bool)
        more = {"side": item["side"]} if "side" in item else {}
        found = heat_maps(io[f"{name}.tracks"], (height, width), visible=seen, **more)
        assert np.array_equal(found, io[f"{name}.maps_gray"]), f"{case.name}: {name}"


def check_trajectories(case, tmp_path):
    """Every set at every number of frames, and both reaches of the matching."""
    assert set(case.config) <= {"kind", "class", "frames", "seed", "tolerance", "provenance"}
    io = {name: tensor.numpy() for name, tensor in case.io.items()}
    sets = {name.split(".")[0] for name in io if name.endswith(".control")}
    for name in sets:
        wanted = {int(key.split(".frames")[1]): value for key, value in io.items() if key.startswith(f"{name}.frames")}
        assert wanted, name
        assert f"{name}.t" in io or set(wanted) == set(case.config["frames"])
        for frames, expected in wanted.items():
            found = through(io[f"{name}.control"], frames, io.get(f"{name}.t"))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4, err_msg=f"{case.name}: {name} {frames}")
    reaches = [int(key.rpartition("dist")[2]) for key in io if key.startswith("match.result_dist")]
    assert sets
    assert reaches
    first, second = (WholeMap(io[f"match.features{number}"][0]) for number in (0, 1))
    for reach in reaches:
        around = io["match.points_current"]
        found = found_again(first, io["match.points_init"], second, around, reach=reach)
        assert np.array_equal(found, io[f"match.result_dist{reach}"]), f"{case.name}: reach {reach}"


RUN = {
    "num_inference_steps", "min_guidance_scale", "max_guidance_scale", "middle_max_guidance", "fps", "motion_bucket_id",
    "noise_aug_strength", "with_control", "point_tracks", "controlnet_cond_scale", "controlnet_step_range",
    "decode_chunk_size", "generator_seed",
}  # fmt: skip


class Drawn(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes every normal draw."""

    def __init__(self):
        super().__init__()
        self.draws = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if "randn" in str(func):
            self.draws.append(made)
        return made


def check_interpolation(case, tmp_path):
    """From folders and pictures to frames, through the public opening: draws, every step's latents, pixels."""
    known = {"kind", "class", "seed", "num_frames", "width", "height", "runs", "tolerance", "provenance"}
    assert set(case.config) <= known
    base, variant = str(case.folder / "framer"), variant_of(case)
    encoder = open_encoder(base, variant, "fp32")
    interpolator = Interpolator(open_denoiser(base, variant, "fp32"))
    size = case.config["height"], case.config["width"]
    first, last = (picture(case.folder / name, size) for name in ("first.png", "last.png"))
    check_pictures(case, encoder, first, last)
    for name, run in case.config["runs"].items():
        assert set(run) <= RUN, set(run) - RUN
        check_run(case, interpolator, encoder, (first, last), name=name)


def variant_of(case):
    """Framer with the sizes of the case's folders."""
    own = CARD.variants["512x320-tracks"]
    folders = {"unet": "framer", "controlnet": "framer", "vae": "svd", "image_encoder": "svd"}
    stated = {name: case.config_file(f"{folder}/{name}/config.json") for name, folder in folders.items()}
    sizes = {name: {key: stated[name].get(key, usual) for key, usual in own.network[name].items()} for name in folders}
    return replace(own, network=sizes)


def check_pictures(case, encoder, first, last):
    told = look_at(encoder, first, last, noise=0.0, rng=torch.Generator().manual_seed(0))
    for place, name in enumerate(("first", "last")):
        close(told.embeds[:, place : place + 1], case.io[f"{name}_embed"], 2e-5, f"{case.name}: {name}_embed")
        close(told.ends[:, :, place], case.io[f"{name}_latent_no_noise"], 2e-5, f"{case.name}: {name} latent")


def check_run(case, interpolator, encoder, pictures, *, name):
    run = case.config["runs"][name]
    how = interpolation(case.config, run)
    expected = {key.removeprefix(f"{name}."): value for key, value in case.io.items() if key.startswith(f"{name}.")}
    close(how.guidance_of_frames(), expected["guidance"], 1e-6, f"{case.name}: {name} guidance")
    steering = None
    if run["with_control"]:
        points = np.array(run["point_tracks"])
        np.testing.assert_allclose(points, expected["tracks"].numpy(), atol=1e-6)
        steering = Given(Tracks(points, np.ones(points.shape[:2], dtype=bool)))
    steps = []
    encoder.vae.decode_chunk = run.get("decode_chunk_size")
    rng = torch.Generator().manual_seed(run["generator_seed"])
    with Drawn() as drawn:
        told = look_at(encoder, *pictures, noise=how.noise, rng=rng)
        latents = interpolator.walk(told, how, rng, steering=steering, seen=lambda step, x: steps.append(x))
    noises = [expected[key] for key in ("image_noise_first", "image_noise_last", "latent_noise")]
    assert all(map(torch.equal, drawn.draws, noises))
    assert len(drawn.draws) == 3
    found = torch.stack(steps).transpose(2, 3)
    assert found.shape == expected["corrected.latents"].shape
    for step, (one, other) in enumerate(zip(found, expected["corrected.latents"], strict=True)):
        close(one, other, 5e-4 if step == 0 else 5e-5, f"{case.name}: {name} latents after step {step}")
    frames = ((encoder.decode(latents) + 1) / 2).permute(0, 2, 3, 4, 1)
    close(frames, expected["corrected.frames"], 1e-4, f"{case.name}: {name} frames")


def interpolation(config, run):
    """The reference's arguments as ours."""
    start, end = run.get("controlnet_step_range", (0.0, 1.0))
    return Interpolation(
        frames=config["num_frames"],
        height=config["height"],
        width=config["width"],
        num_steps=run["num_inference_steps"],
        guidance=(run["min_guidance_scale"], run["max_guidance_scale"]),
        middle_max=run.get("middle_max_guidance", False),
        fps=run["fps"],
        motion_bucket=run["motion_bucket_id"],
        noise=run["noise_aug_strength"],
        control_scale=run.get("controlnet_cond_scale", 1.0),
        control_range=(start, end),
    )


def picture(path, size):
    """A picture of exactly this size as 3 H W in [-1, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert pixels.shape[:2] == size
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def close(found, wanted, atol, what):
    assert found.shape == wanted.shape, what
    WORST[what.partition(": ")[2]] = float((found - wanted).abs().max())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=atol, msg=lambda text: f"{what}\n{text}")


WORST: dict[str, float] = {}
CHECKS = {
    "heatmaps": check_heat_maps,
    "trajectories": check_trajectories,
    "interpolation_sampling": check_interpolation,
}
