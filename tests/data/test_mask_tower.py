from pathlib import Path

import pytest
import torch

from cinelora.contracts.flow import Bucket, Clip, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import Tower
from cinelora.data.entries import TowerFacts
from cinelora.data.mask_tower import MaskTower, latent_mask


def geometry(**changes):
    return Geometry(**{"fps": 8, "frames": 9, "height": 32, "width": 48, **changes})


@pytest.mark.parametrize(
    ("frames", "changes", "groups"),
    [
        (9, {}, [[0], [1, 2, 3, 4], [5, 6, 7, 8]]),
        (1, {}, [[0]]),
        (8, {"frames_offset": 0}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (3, {"frames_per_latent": 1, "frames_offset": 0}, [[0], [1], [2]]),
        (17, {"frames_per_latent": 8}, [[0], list(range(1, 9)), list(range(9, 17))]),
        (8, {"frames_offset": 0, "group_frames": 8}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (1, {"frames_offset": 0, "group_frames": 8}, [[0]]),
        (18, {"group_frames": 9}, [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9], [10, 11, 12, 13], [14, 15, 16, 17]]),
    ],
)
def test_cells_are_means_over_their_pixels_and_frames(frames, changes, groups):
    mask = torch.rand(frames, 16, 24, generator=torch.Generator().manual_seed(0))
    found = latent_mask(mask, geometry(**changes))
    assert found.shape == (1, *geometry(**changes).latent_shape(Bucket(frames, 16, 24))[1:])
    for place, group in enumerate(groups):
        for row in range(2):
            for column in range(3):
                cell = mask[group, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                assert found[0, place, row, column].item() == pytest.approx(cell.double().mean().item(), rel=1e-5)


def test_all_of_nothing_and_of_everything_stay_exact():
    assert latent_mask(torch.ones(9, 16, 16), geometry()).eq(1).all()
    one = torch.zeros(9, 16, 16)
    one[4, 3, 9] = 1
    assert latent_mask(one, geometry()).nonzero().tolist() == [[0, 1, 0, 1]]
    assert latent_mask(one, geometry()).sum().item() == pytest.approx(1 / 256)


def test_the_tower_plays_its_role():
    tower = MaskTower(geometry())
    assert isinstance(tower, Tower)
    record = Record("s/a", "s", "video", (), "", "")
    clip = Clip(Slot(record, Bucket(9, 16, 16)), torch.zeros(3, 9, 16, 16), "", 8.0, torch.ones(9, 16, 16))
    (given,) = tower.encode([clip])
    assert tuple(given) == tower.gives
    changes = ({}, {"latent_cell": 16}, {"frames_offset": 0}, {"group_frames": 9})
    assert len({MaskTower(geometry(**change)).fingerprint() for change in changes}) == 4


def test_it_concerns_records_with_masks_alone():
    facts = TowerFacts.of(MaskTower(geometry()))
    record = Record("s/a", "s", "video", (), "", "")
    assert not facts.concerns(Slot(record, Bucket(9, 16, 16)))
    masked = Record("s/a", "s", "video", (), "", "", mask=Path("m.png"))
    assert facts.concerns(Slot(masked, Bucket(9, 16, 16)))
