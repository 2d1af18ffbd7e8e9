"""Foreground: found, painted and cut out where it was put."""

import numpy as np

from vitjax.pictures.foreground import cut_out, draw_foreground, foreground, foreground_map

M, H, W, D = 3, 6, 5, 7
RNG = np.random.default_rng(0)


def scene():
    """An object of two parts on a plain background: patches, object, its second part."""
    thing = np.zeros((M, H, W), bool)
    thing[:, 2:5, 1:3] = True
    part = thing & (np.arange(H)[None, :, None] >= 4)
    patches = 0.05 * RNG.normal(size=(M, H, W, D))
    patches += thing[..., None] * RNG.normal(size=D) * 3 + part[..., None] * RNG.normal(size=D)
    return patches, thing, part


def test_component_1_is_the_object_whatever_its_sign():
    patches, thing, _ = scene()
    np.testing.assert_array_equal(foreground(patches), thing)
    np.testing.assert_array_equal(foreground(-patches), thing)
    assert not foreground(patches, threshold=9.0).any()


def test_parts_have_one_colour_each_in_all_images_and_the_rest_is_black():
    patches, thing, part = scene()
    coloured = foreground_map(patches, thing).astype(int)
    assert not coloured[~thing].any()
    first = coloured[..., 0]  # the largest difference within the object: its parts
    assert first[thing].min() == 0 and first[thing].max() == 255
    gap = np.abs(first[part].mean() - first[thing & ~part].mean())
    assert gap > 5 * max(first[part].std(), first[thing & ~part].std())
    # Background is no part of the second PCA.
    moved = patches + 4 * RNG.normal(size=patches.shape) * ~thing[..., None]
    np.testing.assert_array_equal(foreground_map(moved, thing), coloured)
    assert not foreground_map(patches, np.zeros_like(thing)).any()


def test_a_cut_out_keeps_the_pixels_of_its_patches():
    images = RNG.integers(0, 200, (2, 8, 12, 3)).astype(np.uint8)
    mask = np.zeros((2, 2, 3), bool)
    mask[1, 0, 2] = True
    got = cut_out(images, mask)
    np.testing.assert_array_equal(got[1, :4, 8:], images[1, :4, 8:])
    assert (got[0] == 244).all() and (got[1, 4:] == 244).all() and (got[1, :, :8] == 244).all()
    np.testing.assert_array_equal(cut_out(images, mask.astype(np.uint8)), got)
    shines = cut_out(images, mask, keep=1.0)[0]
    np.testing.assert_allclose(shines[..., 0], images[0].mean(-1), atol=0.5)


def test_the_figure_is_the_same_on_every_run(same_file):
    patches, thing, _ = scene()
    images = RNG.integers(0, 256, (M, 12, 10, 3)).astype(np.uint8)
    pixels = same_file(lambda file: draw_foreground(images, patches, {"TokenCut": thing}, file))
    fewer = same_file(lambda file: draw_foreground(images, patches, {}, file))
    assert fewer.shape[0] < pixels.shape[0] and fewer.shape[1] == pixels.shape[1]
