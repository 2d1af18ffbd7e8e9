"""How far attention reaches, and how much of it is a convolution.

B images, H heads, h x w grid, N = h * w patches.
"""

import math

import jax.numpy as jnp
import numpy as np

# A head whose weights vary less than this, as a share of their squares, is even: all of float32's
# digits are then the same.
EVEN = 1e-6


def patch_attention(weights, prefix):
    """Weights [B, H, M, M] -> those among the M - prefix patches alone, rows summing to 1."""
    among = weights[:, :, prefix:, prefix:]
    return among / jnp.maximum(among.sum(-1, keepdims=True), 1e-30)


def summed(weights, prefix):
    """What `distances` and `convolution_share` need of weights [B, H, M, M], M = prefix + N, image
    by image, so that they are never held for many: float32, of a square grid.

    {"distance": [B, H], the mean over queries of sum_j A_ij |p_i - p_j| in patches; "squares":
    [B, H], of all A_ij^2; "offsets": [B, H, 2h - 1, 2w - 1], the sum of A_ij over each offset
    p_j - p_i}.
    """
    A = patch_attention(weights, prefix)
    B, H, N, _ = A.shape
    h = w = math.isqrt(N)
    at = np.indices((h, w)).reshape(2, N)
    dy, dx = at[:, None, :] - at[:, :, None]  # [N, N]: from query i to key j
    far = jnp.asarray(np.hypot(dy, dx), jnp.float32)
    place = ((dy + h - 1) * (2 * w - 1) + dx + w - 1).reshape(-1)
    sums = jnp.zeros((B, H, (2 * h - 1) * (2 * w - 1))).at[:, :, place].add(A.reshape(B, H, -1))
    return {
        "distance": (A * far[None, None]).sum((2, 3)) / N,
        "squares": (A**2).sum((2, 3)),
        "offsets": sums.reshape(B, H, 2 * h - 1, 2 * w - 1),
    }


def uniform_distance(h, w):
    """Mean distance between two patches of a grid: what even attention has. 0.52 of the side, for
    large square ones (0.5214: the mean distance of two points of a square)."""
    at = np.indices((h, w)).reshape(2, -1)
    return float(np.hypot(*(at[:, None, :] - at[:, :, None])).mean())


def convolution_share(squares, offsets):
    """R^2 of a head against its own mean over images and queries at each offset: 1 is one kernel
    for all places of all images, 0 none; the rest is content (images differ) or place.

    squares: [B, H]; offsets: [B, H, 2h - 1, 2w - 1], of `summed`. Returns [H] float64: 1 - sum(A -
    a(delta))^2 / sum (A - mean A)^2; 1 for a head that takes the same from everywhere. Heads that
    are pushed back at the border, as those of a convolution without padding, are a little below 1.
    """
    B = len(squares)
    h, w = ((n + 1) // 2 for n in offsets.shape[2:])
    pairs = np.outer(h - np.abs(np.arange(1 - h, h)), w - np.abs(np.arange(1 - w, w)))
    total = squares.sum(axis=0, dtype=np.float64)
    mean = offsets.sum(axis=0, dtype=np.float64) / (B * pairs)
    explained = B * (pairs * mean**2).sum(axis=(1, 2))
    spread = total - B  # rows sum to 1: the mean is 1 / N, and N^2 times its square 1
    share = 1 - (total - explained) / np.maximum(spread, 1e-300)
    return np.where(spread <= EVEN * total, 1.0, np.clip(share, 0.0, 1.0))
