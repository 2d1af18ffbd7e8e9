"""Attention maps: the right row of the weights, its entropy, and the mass it holds."""

import itertools

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy as scipy_entropy

from vitjax.pictures.attention import attended, draw_attention, entropy, mass_mask

B, HEADS, H, W = 2, 3, 2, 4


def weights(prefix, scale=2.0):
    n = prefix + H * W
    return softmax(scale * np.random.default_rng(0).normal(size=(B, HEADS, n, n)), axis=-1)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_a_patch_asks_with_its_own_row(prefix):
    given = weights(prefix)
    seen = attended(given, (H, W), prefix, (1, 2))
    row = given[:, :, prefix + 6]
    np.testing.assert_array_equal(seen.maps.reshape(B, HEADS, -1), row[..., prefix:])
    np.testing.assert_allclose(seen.entropy, scipy_entropy(row, axis=-1))
    assert seen.query == "patch in row 2, column 3" and seen.at == (1, 2)


def test_the_class_token_asks_where_there_is_one_and_else_the_mean():
    given = weights(2)
    seen = attended(given, (H, W), 2)
    np.testing.assert_array_equal(seen.maps.reshape(B, HEADS, -1), given[:, :, 0, 2:])
    assert seen.query == "class token" and seen.at is None
    given = weights(0)
    seen = attended(given, (H, W))
    np.testing.assert_allclose(seen.maps.reshape(B, HEADS, -1), given.mean(2))
    assert "mean" in seen.query
    np.testing.assert_allclose(seen.maps.sum((2, 3)), 1)
    # Every patch asks for itself alone: as sharp as can be, though the mean map is even.
    alone = attended(np.broadcast_to(np.eye(H * W), (B, HEADS, H * W, H * W)), (H, W))
    np.testing.assert_allclose(np.exp(alone.entropy), 1)
    np.testing.assert_allclose(alone.maps, 1 / (H * W))


def test_entropy_counts_keys():
    rows = np.stack([np.full(8, 1 / 8), np.eye(8)[3], np.repeat([0.5, 0.0], [2, 6])])
    np.testing.assert_allclose(np.exp(entropy(rows)), [8, 1, 2])


def test_the_mask_is_the_smallest_that_holds_the_mass():
    maps = weights(0)[:, :, 0].reshape(B, HEADS, H, W)
    for mass in (0.05, 0.6, 0.95):
        masks = mass_mask(0.3 * maps, mass)  # the rest was taken by other tokens
        for one, mask in zip(maps.reshape(-1, H * W), masks.reshape(-1, H * W), strict=True):
            sizes = (
                k
                for k in range(1, H * W + 1)
                for chosen in itertools.combinations(one, k)
                if sum(chosen) >= mass
            )
            assert one[mask].sum() >= mass and mask.sum() == next(sizes)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="over 9 tokens: expected prefix 0"):
        attended(weights(1), (H, W))
    with pytest.raises(ValueError, match="expected a patch of the grid 2 x 4"):
        attended(weights(0), (H, W), 0, (2, 0))


@pytest.mark.parametrize("mass", [None, 0.6])
def test_the_figure_is_the_same_on_every_run(mass, same_file):
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 3)).astype(np.uint8)
    seen = attended(weights(1), (H, W), 1, (0, 3))

    def draw(seen, which):
        settings = {"which": which, "mass": mass, "columns": 3}
        return same_file(lambda file: draw_attention(image, seen, file, **settings))

    pixels = draw(seen, 1)
    assert pixels.std() > 10
    for part in ("maps", "entropy"):  # either alone tells the images apart
        one_alike = seen._replace(**{part: getattr(seen, part)[[1, 1]]})
        assert (draw(one_alike, 0) != pixels).any()
