"""Gaussian blur on the accelerator: one image, float32 [S, S, 3] (B batch by vmap).

Weights are traced and their number is not, so every image has its own sigma in one program.
"""

import jax
import jax.numpy as jnp
import numpy as np


def gaussian_blur(image, sigma, taps=9):
    """torchvision's GaussianBlur: a Gaussian cut to `taps` (odd) and brought to a sum of 1.

    sigma: float32 scalar in pixels, above 0. The image is mirrored about its border pixels.
    """
    at = jnp.asarray(np.arange(taps) - taps // 2, jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square(at / sigma))
    weights = weights / weights.sum()
    return _along(_along(image, weights, 0), weights, 1)


def random_gaussian_blur(image, key, probability, sigma=(0.1, 2.0), taps=9):
    """`gaussian_blur` with this probability, its sigma uniform in a range: DINOv2's has 9 taps."""
    uniform = jax.random.uniform(key, (2,))
    blurred = gaussian_blur(image, sigma[0] + (sigma[1] - sigma[0]) * uniform[1], taps)
    return jnp.where(uniform[0] < probability, blurred, image)


def pillow_blur(image, radius, largest=2.0):
    """Pillow's GaussianBlur: three box blurs of fractional radius, as wide together as a Gaussian
    whose sigma is `radius` (extended box blurs: Gwosdek et al. 2011, eq. 9 to 12).

    radius: float32 scalar in pixels, at most `largest`, which is static. The border pixels go on
    for ever. Pillow rounds after each of the passes; this does not.
    """
    variance = jnp.square(radius) / 3.0
    whole = jnp.floor((jnp.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    rim = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance)
    rim = rim / (6.0 * (variance - jnp.square(whole + 1.0)))
    reach = int((np.sqrt(4.0 * largest**2 + 1.0) - 1.0) / 2.0) + 1
    away = jnp.abs(jnp.asarray(np.arange(-reach, reach + 1), jnp.float32))
    weights = jnp.where(away <= whole, 1.0, jnp.where(away == whole + 1.0, rim, 0.0))
    weights = weights / (2.0 * (whole + rim) + 1.0)
    # As products with matrices: a TPU is slow at neighbours, and three boxes are one matrix.
    vertical, horizontal = (_boxes(weights, size) for size in image.shape[:2])
    image = jnp.einsum("ab,bwc->awc", vertical, image, precision="highest")
    return jnp.einsum("ab,hbc->hac", horizontal, image, precision="highest")


def _boxes(weights, size):
    """[size, size]: three correlations with weights [K] along a side whose ends go on for ever."""
    at = jnp.arange(size)
    reach = weights.shape[0] // 2
    once = sum(
        jnp.where(jnp.clip(at + offset, 0, size - 1)[:, None] == at[None, :], weight, 0.0)
        for offset, weight in zip(range(-reach, reach + 1), weights, strict=True)
    )
    twice = jnp.matmul(once, once, precision="highest")
    return jnp.matmul(twice, once, precision="highest")


def _along(image, weights, dim):
    """Correlates an image with weights [K], K odd, along a dimension, mirrored at its ends."""
    taps, size = weights.shape[0], image.shape[dim]
    padding = [(taps // 2, taps // 2) if each == dim else (0, 0) for each in range(3)]
    padded = jnp.pad(image, padding, mode="reflect")
    # A sum of shifted images is one fused loop; a convolution with a kernel per image is not.
    return sum(
        weights[tap] * jax.lax.slice_in_dim(padded, tap, tap + size, axis=dim)
        for tap in range(taps)
    )
