"""What EasyAnimate's inpaint networks are told: masks on the latents' grid, noise on what is given, drawn versions."""

from types import SimpleNamespace

import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Bucket, Clip
from cinelora.contracts.roles import Tower
from cinelora.families.easyanimate.inpaint import (
    NUM_MASKS,
    InpaintRules,
    InpaintTower,
    chosen,
    drawn,
    joined,
    known_share,
    started,
    with_noise,
)

SCALING = 0.5


class Cells:
    """An autoencoder that means over cells of 4 x 4 pixels and over frames as v5's does; remembers what it saw."""

    scaling = SCALING

    def __init__(self):
        self.seen: list[torch.Tensor] = []
        self.loaded = False

    def fingerprint(self) -> str:
        return "cells"

    def load(self, device: str) -> None:
        self.loaded = True

    def unload(self) -> None:
        self.loaded = False

    def moments(self, pixels):
        self.seen.append(pixels)
        small = torch.nn.functional.avg_pool2d(pixels.transpose(0, 1), 4)
        groups = [small[:1], *(small[1:].split(4) if len(small) > 1 else ())]
        mean = torch.stack([group.mean(0) for group in groups], 1)
        return mean, torch.full_like(mean, -30.0)


def clip_of(frames=9, bucket_frames=None, side=16):
    pixels = torch.rand(3, frames, side, side, generator=torch_rng("pixels", frames)) * 2 - 1
    return Clip(
        SimpleNamespace(bucket=Bucket(bucket_frames or frames, side, side), still=bucket_frames is not None),
        pixels,
        "",
        8.0,
    )


def test_the_first_frame_of_a_mask_is_resized_alone():
    mask = torch.ones(1, 9, 8, 8)
    mask[:, 0] = 0
    alone = known_share(mask, (3, 2, 2), first_alone=True)
    assert alone.shape == (1, 1, 3, 2, 2)
    assert alone[:, :, 0].eq(1).all()
    assert alone[:, :, 1:].eq(0).all()
    left = torch.ones(1, 1, 8, 8)
    left[..., :4] = 0
    assert known_share(left, (1, 1, 2), first_alone=True).flatten().tolist() == [1.0, 0.0]
    together = known_share(torch.ones(1, 8, 8, 8), (2, 2, 2), first_alone=False)
    assert together.shape == (1, 1, 2, 2, 2)
    halves = torch.zeros(1, 8, 8, 8)
    halves[:, 4:] = 1
    assert known_share(halves, (2, 1, 1), first_alone=False).flatten().tolist() == [1.0, 0.0]


def test_what_is_not_given_has_no_noise():
    pixels = torch.tensor([-1.0, -0.999, 0.0, 1.0])
    assert with_noise(pixels, torch.ones(4), 0.5).tolist() == pytest.approx([-1.0, -0.499, 0.5, 1.5])


def test_mask_and_latents_are_both_scaled_and_left_out_by_clip():
    mask, latents = torch.ones(2, 1, 1, 2, 2), torch.full((2, 3, 1, 2, 2), 4.0)
    found = joined(mask, latents, given=torch.tensor([1.0, 0.0]), scaling=0.25)
    assert found.shape == (2, 4, 1, 2, 2)
    assert found[0, 0].eq(0.25).all()
    assert found[0, 1:].eq(1.0).all()
    assert found[1].eq(0).all()


def test_the_role_is_played():
    tower = InpaintTower(Cells(), InpaintRules())
    assert isinstance(tower, Tower)
    assert tower.draws
    assert tower.optional
    tower.load("cpu")
    assert tower.vae.loaded
    tower.unload()
    assert not tower.vae.loaded
    others = [InpaintTower(Cells(), InpaintRules(noisy=False)), InpaintTower(Cells(), InpaintRules(), num_masks=2)]
    assert len({tower.fingerprint(), *(other.fingerprint() for other in others)}) == 3
    assert tower.fingerprint() == InpaintTower(Cells(), InpaintRules()).fingerprint()


@pytest.mark.parametrize(("direct", "channels"), [(True, 4), (False, 6)])
def test_versions_of_a_clip(direct, channels):
    rules = InpaintRules(direct_mask=direct)
    assert rules.channels(3) == channels
    tower, clip = InpaintTower(Cells(), rules), clip_of()
    found = tower.encode([clip], torch_rng(0))[0]["inpaint"]
    assert found.shape == (1 + NUM_MASKS, channels, 3, 4, 4)
    assert torch.equal(found, tower.encode([clip], torch_rng(0))[0]["inpaint"])
    assert not torch.equal(found[1:], tower.encode([clip], torch_rng(1))[0]["inpaint"][1:])
    assert torch.equal(found[:1], tower.encode([clip])[0]["inpaint"]), "number 0 draws nothing of the generator"
    assert len({version.sum().item() for version in found}) > 1


def test_number_0_gives_the_first_frame_with_the_noise_of_the_pipelines():
    tower, clip = InpaintTower(Cells(), InpaintRules()), clip_of()
    found = tower.encode([clip])[0]["inpaint"][0]
    assert found[0, 0].eq(SCALING).all()
    assert found[0, 1:].eq(0).all()
    assert found[1:, 1:].eq(-SCALING).all()
    seen = tower.vae.seen[0]
    noise = seen[:, 0] - clip.pixels[:, 0]
    assert noise.std().item() == pytest.approx(0.0563, rel=0.2)
    assert seen[:, 1:].eq(-1).all()
    quiet = InpaintTower(Cells(), InpaintRules(noisy=False))
    quiet.encode([clip])
    torch.testing.assert_close(quiet.vae.seen[0][:, 0], clip.pixels[:, 0])


def test_masks_that_go_through_the_autoencoder():
    tower, clip = InpaintTower(Cells(), InpaintRules(direct_mask=False, noisy=False)), clip_of()
    found = tower.encode([clip])[0]["inpaint"][0]
    mask = tower.vae.seen[1]
    assert mask.shape == clip.pixels.shape
    assert mask[:, 0].eq(0).all()
    assert mask[:, 1:].eq(1).all()
    assert found[:3, 0].eq(0).all()
    assert found[:3, 1:].eq(SCALING).all()


def test_previews_start_from_one_picture_or_two():
    one, two = started(clip_of(1).pixels, 9), started(clip_of(2).pixels, 9)
    assert one.mask.flatten(1).any(1).tolist() == [False] + [True] * 8
    assert two.mask.flatten(1).any(1).tolist() == [False] + [True] * 7 + [False]
    assert torch.equal(two.pixels[:, -1], clip_of(2).pixels[:, 1])
    assert torch.equal(one.pixels[:, 0], clip_of(1).pixels[:, 0])
    assert one.told
    alone = started(clip_of(1).pixels, 1)
    assert not alone.told
    tower = InpaintTower(Cells(), InpaintRules())
    assert tower.takes_end
    still = tower.encode([clip_of(1, bucket_frames=9)], torch_rng(0))[0]["inpaint"]
    assert still.shape == (1, 4, 3, 4, 4), "a run that is shown pictures alone draws no masks over them"
    assert tower.encode([clip_of(1, bucket_frames=9)])[0]["inpaint"].shape == (1, 4, 3, 4, 4)
    assert tower.encode([clip_of(1)])[0]["inpaint"].eq(0).all()
    whole = started(clip_of(2).pixels, 2)
    assert whole.mask.flatten(1).any(1).tolist() == [False, True]


def test_drawn_masks_follow_the_references_shares():
    """Videos: a fifth has all to be generated, and a tenth of those is told so; pictures: four fifths."""
    for frames, share in ((9, 0.2), (1, 0.8)):
        pixels = clip_of(frames).pixels
        found = [drawn(pixels, torch_rng("drawn", k)) for k in range(1500)]
        whole = [one for one in found if one.mask.all()]
        assert len(whole) / 1500 == pytest.approx(share, abs=0.05)
        assert sum(one.told for one in whole) / len(whole) == pytest.approx(0.1, abs=0.05)
        assert all(one.told for one in found if not one.mask.all())
        sigmas = torch.tensor([one.sigma for one in found]).log()
        assert sigmas.mean().item() == pytest.approx(-3.0, abs=0.05)
        assert sigmas.std().item() == pytest.approx(0.5, abs=0.05)


def test_steps_choose_among_the_drawn_versions():
    versions = torch.arange(5.0).view(1, 5, 1, 1, 1, 1).expand(200, 5, 2, 1, 1, 1)
    assert chosen(versions, None).eq(0).all()
    found = chosen(versions, torch_rng(1))
    assert found.shape == (200, 2, 1, 1, 1)
    assert set(found.flatten().tolist()) == {1.0, 2.0, 3.0, 4.0}
    some = chosen(versions, torch_rng(1), dropout=0.5)
    assert 60 < int(some[:, 0].eq(0).sum()) < 140
    only = chosen(versions[:, 1:2], torch_rng(1))
    assert only.eq(1).all()


V3 = InpaintRules(direct_mask=False, first_alone=False, noisy=False, zeros=False)


def test_where_the_base_knows_no_zeros_a_mask_says_that_nothing_is_given():
    tower = InpaintTower(Cells(), V3)
    assert tower.tells_unshown
    assert not InpaintTower(Cells(), InpaintRules()).tells_unshown
    told = tower.unshown(Bucket(5, 16, 16))["inpaint"]
    assert told.shape[:2] == (1, 6)
    assert told[:, :3].eq(SCALING).all(), "the mask is 1 everywhere"
    assert told[:, 3:].eq(-SCALING).all(), "and nothing is to be seen"
    single = tower.encode([clip_of(1)])[0]["inpaint"]
    assert single.equal(tower.unshown(Bucket(1, 16, 16))["inpaint"])
    drawn_ones = [tower.encode([clip_of(9)], torch_rng("all", k))[0]["inpaint"][1:] for k in range(8)]
    assert all(one.abs().sum() > 0 for versions in drawn_ones for one in versions)
