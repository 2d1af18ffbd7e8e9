"""Alterations of images: cases worked out by hand, and scipy.ndimage."""

import numpy as np
import pytest
from scipy import ndimage

from vitjax.ops import alterations


def pictures(count=3, side=13, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize(("padding", "mode"), [("reflect", "mirror"), ("edge", "nearest")])
def test_translate_is_scipy_s_shift(padding, mode):
    images, offsets = pictures(), np.array([[0, 0], [3, -2], [-12, 5]])
    got = alterations.translate(images, offsets, padding)
    for image, offset, result in zip(images, offsets, got, strict=True):
        want = ndimage.shift(image.astype(float), (*offset, 0), order=0, mode=mode)
        np.testing.assert_array_equal(result, want)
    np.testing.assert_array_equal(got[0], images[0])


def test_shuffle_puts_the_cells_where_the_order_says():
    images = pictures(2, side=7)  # cells of 3 pixels, a rim of one
    got = alterations.shuffle(images, 2, np.array([[0, 1, 2, 3], [3, 1, 0, 2]]))
    np.testing.assert_array_equal(got[0], images[0])
    want = images[1].astype(np.float32)
    want[:3, :3], want[3:6, :3], want[3:6, 3:6] = (
        images[1, 3:6, 3:6],
        images[1, :3, :3],
        images[1, 3:6, :3],
    )
    np.testing.assert_array_equal(got[1], want)


def test_shuffle_keeps_every_pixel():
    images = pictures(2, side=12)
    orders = np.stack([np.random.default_rng(seed).permutation(16) for seed in range(2)])
    got = alterations.shuffle(images, 4, orders)
    assert (got != images).any()
    for image, result in zip(images, got, strict=True):
        np.testing.assert_array_equal(np.sort(image, axis=None), np.sort(result, axis=None))


def test_occlude_blackens_exactly_the_cells():
    images = pictures(2, side=12) // 2 + 9  # no black of their own
    dropped = np.zeros((2, 4, 4), bool)
    dropped[0, 1, 3] = dropped[1, :2] = True
    got = alterations.occlude(images, dropped)
    want = images.astype(np.float32)
    want[0, 3:6, 9:], want[1, :6] = 0, 0
    np.testing.assert_array_equal(got, want)
    assert np.mean(got == 0, axis=(1, 2, 3)).tolist() == [1 / 16, 1 / 2]


def test_occlude_leaves_no_pixel_out_where_cells_are_uneven():
    images = pictures(1, side=13) // 2 + 9
    assert (alterations.occlude(images, np.ones((1, 5, 5), bool)) == 0).all()


def test_shrink_to_the_whole_side_is_the_identity():
    np.testing.assert_array_equal(alterations.shrink(pictures(), 1.0), pictures())


def test_shrink_to_half_the_side_averages_two_by_two():
    images = pictures(2, side=8)
    got = alterations.shrink(images, 0.5)
    want = images.reshape(2, 4, 2, 4, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(got[:, 2:6, 2:6], want, atol=1e-4)
    mean = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
    rim = np.ones((8, 8), bool)
    rim[2:6, 2:6] = False
    np.testing.assert_allclose(got[:, rim], mean[:, rim], atol=1e-4)


def test_amplitude_of_the_image_itself_is_the_identity():
    for side in (12, 13):
        images = pictures(side=side)
        np.testing.assert_allclose(alterations.swap_amplitude(images, images), images, atol=1e-4)


def test_swap_keeps_the_phase_and_takes_the_amplitude():
    low_contrast = [100 + pictures(2, seed=seed) * 0.2 for seed in range(2)]  # nothing to clip
    got = np.fft.fft2(alterations.swap_amplitude(*low_contrast), axes=(1, 2))
    shape, texture = (np.fft.fft2(images, axes=(1, 2)) for images in low_contrast)
    np.testing.assert_allclose(np.abs(got), np.abs(texture), atol=0.01)
    away = np.abs(np.exp(1j * np.angle(got)) - np.exp(1j * np.angle(shape)))
    assert np.max(away * np.abs(got)) < 0.01


def test_recolour_gives_mean_and_deviation_of_the_other():
    images, styles = 100 + pictures(2) * 0.2, 90 + pictures(2, seed=1) * 0.3
    got = alterations.recolour(images, styles)
    for statistic in (np.mean, np.std):
        np.testing.assert_allclose(
            statistic(got, axis=(1, 2)), statistic(styles, axis=(1, 2)), rtol=1e-5
        )
    np.testing.assert_allclose(alterations.recolour(images, images), images, atol=1e-3)
    for result, image in zip(got[..., 0], images[..., 0], strict=True):
        assert np.corrcoef(result.ravel(), image.ravel())[0, 1] > 0.99999


def test_recolour_of_one_colour_is_one_colour():
    got = alterations.recolour(np.full((1, 5, 5, 3), 7.0), pictures(1, side=5))
    np.testing.assert_allclose(got, np.broadcast_to(got[:, :1, :1], got.shape))


def test_grey_is_luma_in_three_channels():
    images = np.zeros((1, 2, 3, 3), np.uint8)
    images[0, 0, 0], images[0, 1, 2] = (255, 0, 0), (9, 9, 9)
    got = alterations.grey(images)
    np.testing.assert_allclose(got[0, 0, 0], 255 * 0.2989, rtol=1e-5)
    np.testing.assert_allclose(got[0, 1, 2], 9, rtol=1e-3)
    assert (got[..., :1] == got).all()


def test_wrapped_moves_are_numpys_roll():
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 6, 3), np.uint8)
    moves = [(1, -2), (-5, 0), (3, 4)]
    got = alterations.translate(images, np.array(moves), "wrap")
    for image, move, want in zip(got, moves, images, strict=True):
        np.testing.assert_array_equal(image, np.roll(want, move, (0, 1)))


def test_enlarged_is_the_middle_with_every_pixel_four():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    got = alterations.enlarge(images)
    assert got.dtype == np.float32 and got.shape == images.shape
    np.testing.assert_array_equal(got[1, 2:4, 6:8], np.broadcast_to(images[1, 3, 5], (2, 2, 3)))
    np.testing.assert_array_equal(got[:, ::2, ::2], images[:, 2:6, 2:6])
