"""Raw pixels keep the contract of an encoder, and lose no pixel."""

import jax
import numpy as np
import pytest

from vitjax import models


def test_every_pixel_is_in_the_vector_and_in_its_patch():
    encoder = models.create("pixels", side=6, patch=3)
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    variables = encoder.init(jax.random.key(0), 6)
    assert variables == {"params": {}, "stats": {}}
    features, stats = encoder.apply(variables, images)
    np.testing.assert_array_equal(features.pooled, images.reshape(2, -1))
    np.testing.assert_array_equal(features.patches[1, 0, 1], images[1, :3, 3:].reshape(-1))
    assert features.patches.shape == (2, 2, 2, 27) and features.tokens.shape == (2, 4, 27)
    assert stats == {} and encoder.width == 108 and encoder.stride == 3


def test_sizes_that_do_not_fit_are_one_line():
    with pytest.raises(ValueError, match=r"^encoder.patch=4 does not divide encoder.side=6$"):
        models.create("pixels", side=6, patch=4)
    encoder = models.create("pixels", side=6, patch=3)
    with pytest.raises(ValueError, match=r"^image size 8x8 is not encoder.side=6: set one"):
        encoder.init(jax.random.key(0), 8)
