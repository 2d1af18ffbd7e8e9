"""Where a patch is: fixed position embeddings."""

import jax.numpy as jnp
import numpy as np


def sincos_2d(h, w, dim, temperature=10_000.0):
    """Fixed two-dimensional sine-cosine embedding (MoCo v3, arXiv:2104.02057; big_vision's form).

    Returns [h, w, dim] float32: for frequencies omega_i = temperature ** (-i / (dim/4 - 1)),
    i = 0 .. dim/4 - 1, the channels are [sin(x omega), cos(x omega), sin(y omega), cos(y omega)]
    with column x and row y in whole patches. MAE's table differs: it divides by dim/4.
    Raises ValueError unless dim is a multiple of 4 and at least 8.
    """
    if dim % 4 or dim < 8:
        raise ValueError(
            f"a sin-cos position embedding needs a width that is a multiple of 4 and at least 8, "
            f"got {dim}: change encoder.width, or set encoder.positions to learned"
        )
    # In float64 on the host: the table is a constant of the compiled program.
    omega = temperature ** (-np.arange(dim // 4) / (dim // 4 - 1))
    y, x = np.mgrid[:h, :w]
    angle_x, angle_y = x[..., None] * omega, y[..., None] * omega
    table = [np.sin(angle_x), np.cos(angle_x), np.sin(angle_y), np.cos(angle_y)]
    return jnp.asarray(np.concatenate(table, axis=-1), jnp.float32)
