"""Sheets: what stands where, and text that fits."""

import numpy as np
import pytest
from PIL import Image

from vitjax.pictures.sheet import fit_text, side_by_side, upsample


@pytest.mark.parametrize(("height", "width"), [(6, 10), (8, 8), (3, 5), (2, 4)])
def test_upsampling_is_pillows_nearest(height, width):
    maps = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    got = upsample(maps, height, width)
    for one, want in zip(got, maps, strict=True):
        nearest = Image.fromarray(want).resize((width, height), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(one, np.asarray(nearest))


def test_text_fits_and_is_not_mathematics():
    assert fit_text("tench") == "tench"
    assert fit_text("Japanese_spaniel for $5", 16) == "Japanese spaniel\nfor \\$5"
    long = fit_text("a name that goes on and on and on for ever", 12)
    assert len(long.splitlines()) == 2 and long.endswith("…")
    assert max(map(len, long.splitlines())) <= 12
    assert fit_text("") == ""


def test_side_by_side_shows_every_encoder_at_its_own_grid(same_file):
    """Each of the four colours of the small grid, as often as those of the fine one."""
    photos = np.full((2, 12, 12, 3), 200, np.uint8)
    plain = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1) * np.uint8([[[[60, 0, 0]]]])
    fine = upsample(plain + np.uint8([0, 90, 0]), 6, 6)
    maps = {"ViT $x$": np.repeat(plain, 2, 0), "ConvNet": np.repeat(fine, 2, 0)}
    pixels = same_file(lambda file: side_by_side(photos, maps, file, title="50 $ a_piece"))
    for red in (60, 120, 180):
        counts = [(pixels == [red, green, 0]).all(-1).sum() for green in (0, 90)]
        assert counts[0] > 1000 and abs(counts[0] - counts[1]) < 0.05 * counts[0]
