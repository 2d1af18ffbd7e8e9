"""A JPEG file written and read back, on the accelerator: one image, whole numbers [S, S, 3].

The steps of libjpeg with Pillow's defaults, in its whole numbers: YCbCr, chroma halved in both
directions (4:2:0), an 8 x 8 cosine transform, the tables of ITU-T T.81, annex K scaled by the
quality, and a triangle filter to bring chroma back. Entropy coding loses nothing, and is left out.
"""

import jax.numpy as jnp
import numpy as np

LUMA = (  # ITU-T T.81, table K.1
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (  # table K.2
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF's YCbCr, times 2^16: rows give Y, Cb - 128 and Cr - 128 of (R, G, B).
TO_YCC = np.array(((19595, 38470, 7471), (-11058, -21710, 32768), (32768, -27439, -5329)), np.int32)
# The first half of each row of libjpeg's cosine transform: 2^13 sqrt(8) times the orthonormal one,
# with the errors of its 13-bit factors (jfdctint.c); the second half mirrors it, odd rows negated.
HALF = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
COSINES = np.array([(*row, *(x * (-1) ** u for x in row[::-1])) for u, row in enumerate(HALF)])
COSINES = COSINES.astype(np.int32)


def compress(image, quality):
    """What a JPEG of this quality shows of an image: int32 [S, S, 3] in 0..255.

    image: int32 [S, S, 3] in 0..255, a side of S > 4; quality: int32 scalar in 1..100.
    """
    side = image.shape[0]
    luma, *chroma = jnp.einsum("yc,hwc->yhw", TO_YCC, image)
    luma, chroma = shifted(luma, 16), [shifted(plane - 1, 16) for plane in chroma]  # halves down
    luma = code(pad(luma - 128, 8, 8), table(LUMA, quality))[:side, :side] + 128
    half = -(-side // 2)
    small = [code(pad(halve(plane), 8, 1), table(CHROMA, quality)) for plane in chroma]
    blue, red = (double(plane[:half, :half])[:side, :side] for plane in small)
    rgb = (
        luma + shifted(91881 * red, 16),
        luma + shifted(-22554 * blue - 46802 * red, 16),
        luma + shifted(116130 * blue, 16),
    )
    return jnp.clip(jnp.stack(rgb, axis=2), 0, 255)


def shifted(numbers, bits):
    """numbers / 2^bits, rounded to the nearest, halves up."""
    return (numbers + (1 << (bits - 1))) >> bits


def table(standard, quality):
    """Quantisation steps int32 [8, 8] of a quality, as libjpeg scales a table of quality 50."""
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((jnp.asarray(standard, jnp.int32) * percent + 50) // 100, 1, 255)


def code(plane, steps):
    """Rounds the cosine coefficients of 8 x 8 blocks to multiples of steps: [h, w] -> [h, w]."""
    h, w = plane.shape
    blocks = plane.reshape(h // 8, 8, w // 8, 8)
    waves = shifted(jnp.einsum("vx,hywx->hywv", COSINES, blocks), 11)
    waves = shifted(jnp.einsum("uy,hywv->huwv", COSINES, waves), 15)  # 8 times the orthonormal
    steps = steps[None, :, None, :]
    waves = jnp.sign(waves) * ((jnp.abs(waves) + 4 * steps) // (8 * steps)) * steps
    blocks = shifted(jnp.einsum("uy,huwv->hywv", COSINES, waves), 11)
    blocks = shifted(jnp.einsum("vx,hywv->hywx", COSINES, blocks), 18)
    return jnp.clip(blocks.reshape(h, w), -128, 127)


def pad(plane, rows, columns):
    """Repeats the last row and column until both counts are multiples of those given."""
    h, w = plane.shape
    return jnp.pad(plane, ((0, -h % rows), (0, -w % columns)), mode="edge")


def halve(plane):
    """Means of 2 x 2 pixels; halves are rounded down and up in turn, as libjpeg dithers them.

    Its columns are a multiple of 8: libjpeg repeats the last column before it halves, the last row
    after.
    """
    plane = pad(plane, 2, 16)
    h, w = plane.shape
    total = plane.reshape(h // 2, 2, w // 2, 2).sum(axis=(1, 3))
    return (total + 1 + jnp.arange(w // 2)[None, :] % 2) >> 2


def double(plane):
    """Twice the side: each pixel is 3/4 of the nearest and 1/4 of the next nearest, both ways."""
    around = jnp.pad(plane, 1, mode="edge")
    rows = interleave(3 * plane + around[:-2, 1:-1], 3 * plane + around[2:, 1:-1], axis=0)
    around = jnp.pad(rows, ((0, 0), (1, 1)), mode="edge")
    left, right = (3 * rows + around[:, :-2] + 8) >> 4, (3 * rows + around[:, 2:] + 7) >> 4
    return interleave(left, right, axis=1)


def interleave(even, odd, axis):
    """even and odd rows (axis 0) or columns (axis 1) in turn."""
    shape = [count * (2 if dim == axis else 1) for dim, count in enumerate(even.shape)]
    return jnp.stack((even, odd), axis=axis + 1).reshape(shape)
