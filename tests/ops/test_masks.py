"""Masks hide exactly as much as was said, in blocks, and shards keep to themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.ops import masks


@pytest.mark.parametrize(
    ("patches", "at_64", "at_256"),
    [(16, 281, 1103), (49, 919, 3646), (64, 1216, 4812), (196, 3771, 14965), (256, 4941, 19610)],
)
def test_totals_are_those_of_dinov3(patches, at_64, at_256):
    # n of 2 n crops are masked, sum over i of int(N * linspace(.1, .5, n + 1)[i + 1]).
    for n, total in ((64, at_64), (256, at_256)):
        assert sum(masks.counts(2 * n, patches, 0.5, (0.1, 0.5))) == total


@pytest.fixture(scope="module")
def drawn():
    draw = jax.jit(lambda key: masks.block_masks(key, 24, 2, (8, 9)))
    return [draw(jax.random.key(seed)) for seed in range(3)]


def test_each_crop_hides_what_it_was_dealt_and_half_hide_nothing(drawn):
    wanted = sorted(masks.counts(8 * 2, 72, 0.5, (0.1, 0.5)))  # groups of gcd(24, 32) = 8 images
    for mask, places, weights in drawn:
        assert mask.shape == (24, 2, 8, 9)
        per_crop = np.asarray(mask).reshape(3, 16, 72).sum(axis=2)
        for group in per_crop:
            assert sorted(group) == wanted
        flat = np.asarray(mask).reshape(3, -1)
        for group in range(3):
            np.testing.assert_array_equal(np.flatnonzero(flat[group]), places[group])
        # Every masked crop weighs 1 / (B * G) in all.
        np.testing.assert_allclose(np.sum(weights), 0.5, rtol=1e-5)
        crop = np.asarray(places) // 72
        want = 1 / (48 * np.take_along_axis(per_crop, crop, axis=1))
        np.testing.assert_allclose(weights, want, rtol=1e-5)


def test_another_key_is_another_mask(drawn):
    assert np.any(drawn[0].mask != drawn[1].mask)
    dealt = [np.asarray(d.mask).sum(axis=(2, 3)) for d in drawn]
    assert np.any(dealt[0] != dealt[1])


def test_what_is_hidden_comes_in_blocks(drawn):
    """A hidden patch has more hidden neighbours than scattered ones would."""
    mask = np.concatenate([np.asarray(d.mask).reshape(-1, 8, 9) for d in drawn])
    mask = mask[mask.any(axis=(1, 2))]
    share = mask.mean(axis=(1, 2))[:, None, None]
    both = (mask[:, 1:] & mask[:, :-1]).mean(axis=(1, 2))
    assert both.mean() > 1.7 * np.mean(share[:, 0, 0] ** 2)


def test_gather_takes_the_hidden_patches_in_order(drawn):
    mask, places, _ = drawn[0]
    patches = np.arange(48 * 72 * 2, dtype=np.float32).reshape(48, 8, 9, 2)
    got = masks.gather(jnp.asarray(patches), places)
    np.testing.assert_array_equal(got, patches[np.asarray(mask).reshape(48, 8, 9)])


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (1, 3)])
def test_tiny_grids_hide_exactly_as_much_too(grid):
    drawn = masks.block_masks(jax.random.key(0), 4, 2, grid, ratio=(0.2, 0.8), least=1)
    wanted = masks.counts(8, grid[0] * grid[1], 0.5, (0.2, 0.8))
    assert sorted(np.asarray(drawn.mask).sum(axis=(2, 3)).reshape(-1)) == sorted(wanted)


def test_a_ratio_that_hides_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^objective\.mask_ratio=\(0\.1, 0\.2\)[^\n]*nothing"):
        masks.block_masks(jax.random.key(0), 4, 2, (2, 2), ratio=(0.1, 0.2))


def test_random_masks_keep_a_quarter_of_each_image_in_order():
    kept, mask = masks.random_masks(jax.random.key(1), 5, (4, 7), 0.75)
    assert kept.shape == (5, 7) and np.all(np.diff(kept, axis=1) > 0)
    for row, hidden in zip(np.asarray(kept), np.asarray(mask).reshape(5, 28), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(~hidden), row)
    assert len({tuple(row) for row in np.asarray(kept)}) == 5
    # 49 of 196 at MAE's ratio, and every patch as often as another.
    many, _ = masks.random_masks(jax.random.key(2), 400, (14, 14), 0.75)
    assert many.shape == (400, 49)
    often = np.bincount(np.asarray(many).reshape(-1), minlength=196)
    assert abs(often - 100).max() < 6 * np.sqrt(75)
    with pytest.raises(ValueError, match=r"^objective\.mask_ratio=0\.9[^\n]*keeps 0"):
        masks.random_masks(jax.random.key(0), 2, (2, 2), 0.9)
