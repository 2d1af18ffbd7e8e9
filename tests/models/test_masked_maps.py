"""What a mask hides from encoders whose first layers are convolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import models
from vitjax.models.layers import hide

ENCODERS = {
    "resnet": {"variant": "18", "width": 0.0625, "stem": "small", "norm": "batch"},
    "convnext": {"variant": "T", "depths": (1,) * 4, "dims": (4, 6, 8, 10), "patch": 1},
    "bit": {"variant": "R26x1", "depths": (1, 1), "width": 32},
    "coatnet": {"variant": "0", "depths": (1,) * 4, "dims": (4, 32, 32, 64), "stem": (4, 8)},
}


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_patches_become_the_token_where_the_stem_ends(name, fill):
    """What stands deep inside a hidden patch changes nothing; without the mask it does."""
    encoder = models.create(name, mask_token=True, **ENCODERS[name])
    side = encoder.stride
    variables = fill(encoder, 2 * side)
    images = jax.random.normal(jax.random.key(0), (2, 2 * side, 4 * side // 2, 3))
    margin = side // 2 - 1  # beyond what a stem carries over the border of a patch
    inside = slice(side + margin, 2 * side - margin)
    changed = images.at[:, inside, inside].add(5.0)
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 1, 1] = True

    @jax.jit
    def look(images, mask):
        return encoder.apply(variables, images, mask=mask, layers=("stem",))[0]

    one, two = (look(x, jnp.asarray(mask)) for x in (images, changed))
    np.testing.assert_allclose(one.patches[0], two.patches[0], atol=1e-5)
    assert np.abs(one.patches[1] - two.patches[1]).max() > 1e-3
    cells = one.layers["stem"].shape[1] // 2
    token = np.asarray(variables["params"]["mask_token"])
    hidden = np.asarray(one.layers["stem"])[0, cells:, cells:]
    np.testing.assert_allclose(hidden, np.broadcast_to(token, hidden.shape), atol=1e-6)
    assert np.abs(np.asarray(one.layers["stem"])[0, :cells] - token).max() > 1e-3


class Hidden(nn.Module):
    mask_token: bool = True

    @nn.compact
    def __call__(self, x, mask):
        return hide(self, x, mask)


def test_a_cell_covers_its_share_of_the_map_and_the_last_one_the_rest():
    x, mask = jnp.zeros((1, 7, 4, 3)), jnp.asarray([[[False, True], [False, False], [True, False]]])
    out = Hidden().apply({"params": {"mask_token": jnp.ones(3)}}, x, mask)
    want = np.zeros((7, 4))
    want[:2, 2:] = 1
    want[4:, :2] = 1
    np.testing.assert_array_equal(out[0, :, :, 1], want)
    with pytest.raises(ValueError, match=r"grid \(8, 2\), finer than the map \(7, 4\)"):
        Hidden().apply({"params": {"mask_token": jnp.ones(3)}}, x, jnp.zeros((1, 8, 2), bool))
