"""The 15 corruptions of ImageNet-C and CIFAR-10-C, in 5 severities (arXiv:1903.12261, sec. 4).

Parameters and formulas are those of the authors' make_imagenet_c.py ("imagenet", for 224 pixels)
and make_cifar_c.py ("cifar", for 32). What is in pixels there is in pixels here, whatever the side
S of the images; elastic_transform and pixelate are shares of S, as they are there. Not as there:
draws come from keys, frost is a texture and not a photograph, elastic_transform does not round its
coordinates to 1/32 pixel (OpenCV), and results are not written as JPEG of quality 85 (ImageNet-C's
files).

One image, float32 [S, S, 3] in 0..1, and one key at a time; corrupt() takes a batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import ndimage

from vitjax.ops import corruption_fields as fields
from vitjax.ops import jpeg

PARAMETERS = {
    "imagenet": {
        "gaussian_noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation
        "shot_noise": (60, 25, 12, 5, 3),  # photons of a white pixel
        "impulse_noise": (0.03, 0.06, 0.09, 0.17, 0.27),  # share of the values
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),  # radius, alias
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),  # radius, sigma
        "zoom_blur": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),  # amount, decay
        "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
        "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
        # Shares of 244 at 224 pixels: a slip of the authors that is in the data.
        "elastic_transform": (
            (244 / 224 * 2, 244 / 224 * 0.7, 244 / 224 * 0.1),
            (244 / 224 * 2, 244 / 224 * 0.08, 244 / 224 * 0.2),
            (244 / 224 * 0.05, 244 / 224 * 0.01, 244 / 224 * 0.02),
            (244 / 224 * 0.07, 244 / 224 * 0.01, 244 / 224 * 0.02),
            (244 / 224 * 0.12, 244 / 224 * 0.01, 244 / 224 * 0.02),
        ),
        "pixelate": (0.6, 0.5, 0.4, 0.3, 0.25),
        "jpeg_compression": (25, 18, 15, 10, 7),
    },
    "cifar": {
        "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": (500, 250, 100, 75, 50),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.07),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": (0.05, 0.1, 0.15, 0.2, 0.3),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
        "jpeg_compression": (80, 65, 58, 50, 40),
    },
}


@functools.partial(jax.jit, static_argnames=("name", "scale"))
def corrupt(images, keys, *, name, severity, scale):
    """A batch corrupted: float32 [B, S, S, 3], whole numbers 0..255.

    images: float32 [B, S, S, 3], whole numbers 0..255; keys [B], one per image; name: one of
    CORRUPTIONS; severity: 1..5, traced: a name is one program; scale: "imagenet" or "cifar".
    """
    level = jnp.asarray(severity, jnp.int32) - 1
    one = functools.partial(CORRUPTIONS[name], level=level, constants=PARAMETERS[scale][name])
    return grid(jax.vmap(one)(images / 255.0, keys))


def grid(image):
    """0..1 -> whole numbers 0..255, rounded down as the reference's np.uint8 does.

    What is less than 1/1000 below a whole number is that number: float32 would lose a level.
    """
    return jnp.floor(jnp.clip(image, 0.0, 1.0) * 255.0 + 1e-3)


def at(constants, level):
    """The parameters of a severity, float32: one per column of the table."""
    return jnp.asarray(constants, jnp.float32)[level]


def gaussian_noise(image, key, level, constants):
    return image + at(constants, level) * jax.random.normal(key, image.shape)


def shot_noise(image, key, level, constants):
    photons = at(constants, level)
    # jax draws Poisson numbers from threefry keys only.
    key = jax.random.wrap_key_data(jax.random.bits(key, (2,)), impl="threefry2x32")
    return jax.random.poisson(key, image * photons).astype(jnp.float32) / photons


def impulse_noise(image, key, level, constants):
    hit, white = jax.random.uniform(key, (2, *image.shape))
    return jnp.where(hit <= at(constants, level), jnp.where(white <= 0.5, 1.0, 0.0), image)


def defocus_blur(image, key, level, constants):
    kernels = np.stack([fields.disk(*row) for row in constants])
    rim = np.flatnonzero(kernels.any(axis=(0, 1)))[0]  # what no severity needs
    kernels = kernels[:, rim : 21 - rim, rim : 21 - rim]
    return fields.filtered(image, at(kernels, level))


def glass_blur(image, key, level, constants):
    side = image.shape[0]
    blurs = [fields.gaussian_rows(side, sigma, 4.0, "nearest") for sigma, _, _ in constants]
    blur = at(np.stack(blurs), level)
    _, reach, rounds = at(constants, level).astype(jnp.int32)
    image = grid(fields.along_both(blur, image))
    return fields.along_both(blur, fields.local_copies(image, key, reach, rounds) / 255.0)


def motion_blur(image, key, level, constants):
    radius, sigma = at(constants, level)
    angle = jax.random.uniform(key, minval=-45.0, maxval=45.0)
    image = fields.streak(image, angle, radius, sigma, longest(constants, 0))
    return jnp.round(image * 255.0) / 255.0  # its 8-bit PNG is rounded


def longest(constants, column):
    """The taps of the longest streak of a table whose radii are in that column."""
    return 2 * max(row[column] for row in constants) + 1


def zoom_blur(image, key, level, constants):
    side = image.shape[0]
    factors = [np.arange(1, stop, step) for stop, step in constants]
    counts = np.array([len(each) for each in factors])
    low = np.zeros((len(factors), counts.max(), side), np.int32)
    share = np.zeros(low.shape, np.float32)
    for row, each in enumerate(factors):
        for column, factor in enumerate(each):
            low[row, column], share[row, column] = fields.zoom_taps(side, factor)
    low, share, count = (jnp.asarray(table)[level] for table in (low, share, counts))
    total = jax.lax.fori_loop(
        0, count, lambda i, total: total + fields.zoomed(image, low[i], share[i]), image
    )
    return total / (count + 1).astype(jnp.float32)


def snow(image, key, level, constants):
    mean, std, _, threshold, radius, sigma, kept = at(constants, level)
    noise_key, angle_key = jax.random.split(key)
    side = image.shape[0]
    taps = [fields.zoom_taps(side, row[2]) for row in constants]
    low, share = (jnp.asarray(np.stack(table))[level] for table in zip(*taps, strict=True))
    flakes = mean + std * jax.random.normal(noise_key, (side, side, 1))
    flakes = fields.zoomed(flakes, low, share)
    flakes = grid(jnp.where(flakes < threshold, 0.0, flakes))
    angle = jax.random.uniform(angle_key, minval=-135.0, maxval=-45.0)
    flakes = fields.streak(flakes, angle, radius, sigma, longest(constants, 4))
    flakes = jnp.round(flakes) / 255.0
    grey = (image * jnp.asarray((0.299, 0.587, 0.114))[None, None, :]).sum(axis=2, keepdims=True)
    bleached = jnp.maximum(image, 1.5 * grey + 0.5)
    return kept * image + (1.0 - kept) * bleached + flakes + jnp.rot90(flakes, 2)


def frost(image, key, level, constants):
    kept, ice = at(constants, level)
    return kept * image + ice * fields.frost_texture(key, image.shape[0])


def fog(image, key, level, constants):
    amount, decay = at(constants, level)
    brightest = image.max()
    haze = fields.plasma(key, image.shape[0], decay)[:, :, None]
    return (image + amount * haze) * brightest / (brightest + amount)


def brightness(image, key, level, constants):
    """Value of HSV plus a constant, at most 1; hue and saturation stay."""
    value = image.max(axis=2, keepdims=True)
    brighter = jnp.minimum(value + at(constants, level), 1.0)
    return jnp.where(value > 0.0, image * (brighter / jnp.where(value > 0.0, value, 1.0)), brighter)


def contrast(image, key, level, constants):
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + at(constants, level) * (image - mean)


def elastic_transform(image, key, level, constants):
    """An affine map that moves three points, then a displacement of each pixel by smooth noise."""
    side = image.shape[0]
    force, _, reach = at(constants, level) * side
    points_key, field_key = jax.random.split(key)
    centre, arm = side // 2, side // 3
    corners = jnp.asarray(((arm, arm), (arm, -arm), (-arm, -arm)), jnp.float32) + centre
    moved = corners + jax.random.uniform(points_key, (3, 2), minval=-reach, maxval=reach)
    # A pixel of the result shows what is at its place in the map back, moved -> corners.
    back = jnp.matmul(
        jnp.linalg.inv(moved[1:] - moved[:1]), corners[1:] - corners[:1], precision=fields.HIGHEST
    )
    column, row = jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32),) * 2)
    right, down = column - moved[0, 0], row - moved[0, 1]
    x = corners[0, 0] + right * back[0, 0] + down * back[1, 0]
    y = corners[0, 1] + right * back[0, 1] + down * back[1, 1]
    image = sampled(image, y, x, "mirror")

    blurs = [fields.gaussian_rows(side, row[1] * side, 3.0, "reflect") for row in constants]
    noise = jax.random.uniform(field_key, (side, side, 2), minval=-1.0)
    push = force * fields.along_both(at(np.stack(blurs), level), noise)
    return sampled(image, row + push[:, :, 1], column + push[:, :, 0], "reflect")


def sampled(image, y, x, mode):
    """image [S, S, 3] at places y, x [S, S], bilinear; mode: how it goes on beyond its border."""
    return jax.vmap(
        lambda plane: ndimage.map_coordinates(plane, (y, x), order=1, mode=mode),
        in_axes=2,
        out_axes=2,
    )(image)


def pixelate(image, key, level, constants):
    side = image.shape[0]
    shrunk = [int(side * share) for share in constants]
    down = np.zeros((len(shrunk), max(shrunk), side))
    up = np.zeros((len(shrunk), side), np.int32)
    for row, small in enumerate(shrunk):
        down[row, :small] = fields.box_weights(side, small)
        up[row] = fields.box_weights(small, side).argmax(axis=1)
    down, up = at(down, level), jnp.asarray(up)[level]
    # Pillow rounds after each of its two passes, columns first.
    image = jnp.einsum("xw,hwc->hxc", down, image * 255.0, precision=fields.HIGHEST)
    image = jnp.floor(image + 0.5 + 1e-3)
    image = jnp.einsum("yh,hxc->yxc", down, image, precision=fields.HIGHEST)
    return jnp.floor(image + 0.5 + 1e-3)[up][:, up] / 255.0


def jpeg_compression(image, key, level, constants):
    quality = jnp.asarray(constants, jnp.int32)[level]
    image = jnp.round(image * 255.0).astype(jnp.int32)
    return jpeg.compress(image, quality).astype(jnp.float32) / 255.0


CORRUPTIONS = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
