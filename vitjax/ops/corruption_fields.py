"""What the corruptions are made of: blurs, zooms, resampling weights and random fields.

S side of the image. Tables are NumPy, made while a program is traced; the rest is traced.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from vitjax.ops.jpeg import interleave

HIGHEST = jax.lax.Precision.HIGHEST


def gaussian_rows(side, sigma, truncate, mode):
    """Weights [S, S] that blur a column of S pixels; mode: SciPy's name for how it goes on."""
    identity = np.eye(side)
    if sigma == 0:
        return identity
    return ndimage.gaussian_filter1d(identity, sigma, axis=0, mode=mode, truncate=truncate)


def along_both(weights, image):
    """Applies weights [T, S] to the rows and to the columns of an image [S, S, C]: [T, T, C]."""
    return jnp.einsum("yh,xw,hwc->yxc", weights, weights, image, precision=HIGHEST)


def disk(radius, alias):
    """A disk of total 1, its edge softened by a Gaussian of `alias` pixels: [21, 21], centred.

    The Gaussian has 3 taps up to a radius of 8 and 5 above, and the disk stands in a square of side
    17 or 2 radius + 1, at whose border the softening is mirrored (OpenCV's GaussianBlur).
    """
    reach, far = (8, 1) if radius <= 8 else (radius, 2)
    at = np.arange(-reach, reach + 1)
    kernel = (at[:, None] ** 2 + at[None, :] ** 2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    taps = np.exp(-(np.arange(-far, far + 1) ** 2) / (2 * alias**2))
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, taps / taps.sum(), axis=axis, mode="mirror")
    return np.pad(kernel, 10 - reach)


def filtered(image, kernel):
    """image [S, S, 3] correlated with a kernel [K, K], K odd, mirrored about its border pixels."""
    reach = kernel.shape[0] // 2
    padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    out = jax.lax.conv_general_dilated(
        padded.transpose(2, 0, 1)[:, None],  # channels as a batch
        kernel[None, None],
        window_strides=(1, 1),
        padding="VALID",
        precision=HIGHEST,
    )
    return out[:, 0].transpose(1, 2, 0)


def streak(image, angle, radius, sigma, longest):
    """ImageMagick's motion blur of an image [S, S, C]: half a Gaussian, from each pixel onwards.

    angle: degrees, clockwise from the right; radius: 2 radius + 1 taps, `longest` (static) at most;
    sigma: pixels along the way. Taps are whole pixels; the border pixels go on for ever.
    """
    side = image.shape[0]
    taps = jnp.arange(longest, dtype=jnp.float32)
    weights = jnp.where(taps < 2.0 * radius + 1.0, jnp.exp(-(taps**2) / (2.0 * sigma**2)), 0.0)
    weights = weights / weights.sum()
    turn = jnp.deg2rad(angle)
    down = jnp.ceil(taps * jnp.sin(turn) - 0.5).astype(jnp.int32)
    right = jnp.ceil(taps * jnp.cos(turn) - 0.5).astype(jnp.int32)
    at = jnp.arange(side)

    def add(tap, total):
        rows = jnp.clip(at + down[tap], 0, side - 1)
        columns = jnp.clip(at + right[tap], 0, side - 1)
        return total + weights[tap] * image[rows][:, columns]

    return jax.lax.fori_loop(0, longest, add, jnp.zeros_like(image))


def zoom_taps(side, factor):
    """The centre enlarged by `factor` to S pixels, linearly: the nearer-to-0 tap int32 [S] of each
    pixel, and the share float32 [S] of the one after it.

    As scipy.ndimage.zoom does to a crop of ceil(S / factor) pixels, its ends on the crop's ends;
    what is more than S is cut off evenly.
    """
    crop = math.ceil(side / factor)
    zoomed = round(crop * factor)
    at = np.arange(side) + (zoomed - side) // 2
    at = at * (crop - 1) / max(zoomed - 1, 1)
    low = np.minimum(np.floor(at), max(crop - 2, 0))
    return (low + (side - crop) // 2).astype(np.int32), (at - low).astype(np.float32)


def zoomed(image, low, share):
    """Applies `zoom_taps` to the rows and columns of an image [S, S, C]."""
    high = jnp.minimum(low + 1, image.shape[0] - 1)
    rows = share[:, None, None]
    image = (1.0 - rows) * image[low] + rows * image[high]
    columns = share[None, :, None]
    return (1.0 - columns) * image[:, low] + columns * image[:, high]


def box_weights(inputs, outputs):
    """Weights [outputs, inputs], float64, of Pillow's BOX filter: the mean of the pixels whose
    centres lie under an output pixel; the nearest pixel where the image grows."""
    scale = inputs / outputs
    centre = (np.arange(outputs) + 0.5) * scale
    away = (np.arange(inputs)[None, :] - centre[:, None] + 0.5) / max(scale, 1.0)
    under = (away > -0.5) & (away <= 0.5)
    return under / under.sum(axis=1, keepdims=True)


def local_copies(image, key, reach, rounds):
    """Each inner pixel becomes a copy of one at most `reach` away, `rounds` times over.

    image [S, S, C]; reach, rounds: int32 scalars. Offsets are drawn from -reach .. reach - 1. The
    reference visits the pixels from the last to the first and means to swap two of them, but
    NumPy's views make of it a copy: x[p] = x[p + offset]. So p becomes what p + offset has become
    if that was visited before p, and what it was if not: chains that pointer jumping follows to
    their ends, all pixels at once.
    """
    side = image.shape[0]
    at = jnp.arange(side * side)
    row, column = at // side, at % side

    def visited(y, x):
        return (jnp.minimum(y, x) > reach) & (jnp.maximum(y, x) <= side - reach)

    def copy(turn, pixels):
        draws = jax.random.fold_in(key, turn)
        down, right = jax.random.randint(draws, (2, side * side), -reach, reach)
        y, x = row + down, column + right
        source = jnp.where(visited(row, column), y * side + x, at)
        end = jnp.where(visited(y, x) & (source > at), source, at)
        doublings = math.ceil(math.log2(side * side))
        end = jax.lax.fori_loop(0, doublings, lambda _, end: end[end], end)
        return pixels[source[end]]

    pixels = image.reshape(side * side, -1)
    return jax.lax.fori_loop(0, rounds, copy, pixels).reshape(image.shape)


def plasma(key, side, decay):
    """A cloud in 0..1, float32 [S, S]: the diamond-square fractal, on a torus of 2^n >= S pixels.

    Every level doubles the side: new points are the mean of their four neighbours and a uniform
    draw within 100^2 / decay^(2 level).
    """
    levels = math.ceil(math.log2(side))
    draws = jax.random.uniform(key, (4**levels - 1,), minval=-1.0)
    field = jnp.zeros((1, 1))
    for level in range(levels):
        here = draws[4**level - 1 : 4 ** (level + 1) - 1].reshape(3, *field.shape)
        square, above, left = here * (100.0 / decay**level) ** 2
        pairs = field + jnp.roll(field, -1, axis=0)
        square += (pairs + jnp.roll(pairs, -1, axis=1)) / 4.0
        pairs = square + jnp.roll(square, 1, axis=0) + field + jnp.roll(field, -1, axis=1)
        above += pairs / 4.0
        pairs = square + jnp.roll(square, 1, axis=1) + field + jnp.roll(field, -1, axis=0)
        left += pairs / 4.0
        field = interleave(interleave(field, above, 1), interleave(left, square, 1), 0)
    field = field - field.min()
    return (field / field.max())[:side, :side]


def frost_texture(key, side):
    """Ice on glass, float32 [S, S, 3] in 0..1: crinkled bright veins on a bluish ground.

    A stand-in for crops of the photographs of the reference, which we do not carry: veins are where
    a rough cloud crosses its middle, laid on a rougher one.
    """
    cloud, grain = jax.vmap(plasma, (0, None, 0))(
        jax.random.split(key), side, jnp.asarray((1.4, 1.15))
    )
    veins = (1.0 - jnp.abs(2.0 * cloud - 1.0)) ** 8
    ice = jnp.clip(veins + 1.5 * (grain - 0.4), 0.0, 1.0)[:, :, None]
    ground = jnp.asarray((0.24, 0.33, 0.43))[None, None, :]
    return ground + ice * (jnp.asarray((0.93, 0.97, 1.0))[None, None, :] - ground)
