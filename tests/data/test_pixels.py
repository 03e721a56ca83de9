import numpy as np
import pytest
import torch

from cinelora.contracts.flow import Bucket
from cinelora.data.pixels import as_reference, unit

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def linear_by_hand(row, count):
    """Linear resizing of one row, half-pixel centres, no averaging: sample at (i + 1/2) n / count - 1/2, edges held."""
    at = np.clip((np.arange(count) + 0.5) * len(row) / count - 0.5, 0, len(row) - 1)
    left = np.minimum(at.astype(int), len(row) - 2)
    return row[left] + (at - left)[:, None] * (row[left + 1] - row[left])


def test_levels():
    frames = np.array([[[[0, 51, 255]]], [[[255, 102, 0]]]], np.uint8)
    assert unit(frames).shape == (3, 2, 1, 1)
    np.testing.assert_allclose(unit(frames)[:, :, 0, 0], [[-1, 1], [-0.6, -0.2], [1, -1]], atol=1e-6)


@pytest.mark.parametrize("method", ["bicubic float", "bicubic", "bilinear float", "bilinear"])
def test_without_resizing_a_crop_copies(method):
    pixels = as_reference(NOISE, (24, 40), (24, 40, 3, 8), Bucket(1, 16, 20), method)
    expected = NOISE[3:19, 8:28].astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(pixels.permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["bilinear float", "bilinear"])
def test_missing_parts_are_black(method):
    pixels = as_reference(NOISE, (24, 40), (24, 40, -4, 10), Bucket(1, 32, 36), method)
    assert pixels.shape == (3, 32, 36)
    assert torch.all(pixels[:, :4] == -1)
    assert torch.all(pixels[:, 28:] == -1)
    assert torch.all(pixels[:, :, 30:] == -1)
    np.testing.assert_allclose(pixels[:, 4:28, :30].permute(1, 2, 0), NOISE[:, 10:] / 127.5 - 1, atol=1e-6)


def test_reducing_averages_in_every_method():
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 255
    for method in ("bicubic float", "bicubic", "bilinear float", "bilinear"):
        pixels = as_reference(stripes, (32, 32), (8, 8, 0, 0), Bucket(1, 8, 8), method)
        assert pixels[:, 2:-2, 2:-2].abs().max() < 0.05, method


def test_reading_at_a_size_picks_instead_of_averaging():
    """OpenCV's linear reduction: 24 x 40 to 12 x 15 looks at four neighbours only, then rounds to 8 bits."""
    pixels = as_reference(NOISE, (12, 15), (12, 15, 0, 0), Bucket(1, 12, 15), "bilinear float")
    levels = (pixels * 127.5 + 127.5).numpy()
    np.testing.assert_allclose(levels, levels.round(), atol=1e-3)
    rows = np.stack([linear_by_hand(NOISE[:, x].astype(float), 12) for x in range(40)], 1)
    by_hand = np.stack([linear_by_hand(rows[y], 15) for y in range(12)])
    assert np.abs(levels.transpose(1, 2, 0) - by_hand).max() <= 0.5 + 1e-3


def test_only_float_bicubic_leaves_the_range():
    edge = np.zeros((16, 16, 3), np.uint8)
    edge[:, 8:] = 255
    most = {
        method: float(as_reference(edge, (16, 16), (32, 32, 0, 0), Bucket(1, 32, 32), method).abs().max())
        for method in ("bicubic float", "bicubic", "bilinear float", "bilinear")
    }
    assert most["bicubic float"] > 1.05
    assert all(value <= 1 for method, value in most.items() if method != "bicubic float")
