"""The distortions that searched policies are made of: one image at a time, chosen by a number.

An image is float32 [S, S, 3] of whole numbers 0..255, and so is every result: the published
policies work on 8 bits. `style` says whose arithmetic: "pillow" (Pillow, as timm and torchvision
call it) or "tf" (TensorFlow, as EfficientNet's and big_vision's code has it: shears about the first
pixel's centre, contrast towards a constant, greys and blurs cut off where Pillow rounds).
"""

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.colour import grey

ENHANCEMENTS = ("color", "contrast", "brightness", "sharpness")
GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
# What one computation does; for a batch, `policies.one_by_one` says which of them run.
GROUPS = (
    ("identity",),
    ("auto_contrast",),
    ("equalize",),
    ("invert", "posterize", "solarize", "solarize_add"),
    ENHANCEMENTS,
    GEOMETRY,
    ("cutout",),
)
OPERATIONS = tuple(name for names in GROUPS for name in names)
GROUP = tuple(group for group, names in enumerate(GROUPS) for _ in names)  # of each operation
NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
STYLES = ("pillow", "tf")
EPSILON = 1e-3  # what float32 loses must not cost a level where 8 bits are cut off


def distort(image, operation, amount, place, *, fill, style="pillow", sampling="nearest"):
    """One of OPERATIONS, by its number, traced: under vmap every group is computed, once.

    amount: float32 scalar. rotate: degrees counter-clockwise; shear: pixels per pixel; translate:
    pixels, to the left or up; color, contrast, brightness, sharpness: 1 is the image itself;
    posterize: bits kept; solarize: threshold; solarize_add: levels added below 128; cutout: half a
    side. place: two uniform numbers in 0..1, the centre of cutout. fill: three levels for what
    comes from outside. sampling: "nearest" or "linear".
    """
    rows = matrix(image.shape, operation, amount, style)
    branches = (
        lambda image: image,
        auto_contrast,
        equalize,
        lambda image: pointwise(image, operation, amount),
        lambda image: enhance(image, operation, amount, style),
        lambda image: affine(image, rows, fill, sampling),
        lambda image: cutout(image, amount, place, fill),
    )
    return switch(jnp.asarray(GROUP)[operation], branches, image)


def switch(index, branches, image):
    """branches[index](image): [S, S, 3] to the same.

    What enters and leaves a branch or a loop lies as its dimensions say. A TPU holds the last one
    in tiles of 128: 3 channels there would be 42 times the memory, so planes cross.
    """
    in_planes = [lambda each, branch=branch: planes(branch(pixels(each))) for branch in branches]
    return pixels(jax.lax.switch(index, in_planes, planes(image)))


def planes(image):
    """[..., S, S, 3] -> [..., 3, S, S]."""
    return jnp.moveaxis(image, -1, -3)


def pixels(image):
    """[..., 3, S, S] -> [..., S, S, 3]."""
    return jnp.moveaxis(image, -3, -1)


def auto_contrast(image):
    """Each channel stretched to 0..255, where it has more than one value."""
    low, high = (f(image, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    scale = 255.0 / jnp.maximum(high - low, 1.0)
    stretched = jnp.clip(jnp.floor((image - low) * scale + EPSILON), 0.0, 255.0)
    return jnp.where(high > low, stretched, image)


def equalize(image):
    """Each channel's histogram flattened, by the whole-number table of Pillow's ImageOps."""
    height, width, channels = image.shape
    levels = image.reshape(-1, channels).T.astype(jnp.int32)  # [3, P]
    digits = jnp.arange(16)[None, None, :]
    # A histogram, and reading a table, as products of one-hot digits: no scatter, no gather.
    high = (levels[:, :, None] // 16 == digits).astype(jnp.bfloat16)
    low = (levels[:, :, None] % 16 == digits).astype(jnp.bfloat16)
    counts = jnp.einsum("cph,cpl->chl", high, low, preferred_element_type=jnp.float32)
    counts = counts.reshape(channels, 256).astype(jnp.int32)
    last = jnp.take_along_axis(counts, levels.max(axis=1, keepdims=True), axis=1)
    step = (height * width - last) // 255
    before = jnp.cumsum(counts, axis=1) - counts
    table = jnp.clip((before + step // 2) // jnp.maximum(step, 1), 0, 255)
    table = table.reshape(channels, 16, 16).astype(jnp.bfloat16)  # whole numbers to 256 are exact
    rows = jnp.einsum("cph,chl->cpl", high, table, preferred_element_type=jnp.float32)
    flat = jnp.where(low > 0, rows, 0.0).sum(axis=2)
    flat = jnp.where(step > 0, flat, levels.astype(jnp.float32))
    return flat.T.reshape(height, width, channels)


def pointwise(image, operation, amount):
    """invert, posterize, solarize and solarize_add: functions of one value."""
    unit = jnp.exp2(jnp.floor(8.0 - amount))
    posterized = jnp.floor(image / unit) * unit
    inverted = 255.0 - image
    added = jnp.where(image < 128.0, jnp.minimum(image + amount, 255.0), image)
    out = jnp.where(operation == NUMBER["posterize"], posterized, inverted)
    solarized = jnp.where(image >= amount, inverted, image)
    out = jnp.where(operation == NUMBER["solarize"], solarized, out)
    return jnp.where(operation == NUMBER["solarize_add"], added, out)


def enhance(image, operation, factor, style):
    """factor * image + (1 - factor) * target, clipped and cut off to whole numbers.

    The targets: luma for color, a constant for contrast, black for brightness, a slight blur for
    sharpness.
    """
    cut = 0.0 if style == "tf" else 0.5
    luma = grey(image)
    luma = jnp.floor(luma * (255.5 / 255.0) + EPSILON) if style == "tf" else jnp.round(luma)
    if style == "tf":  # the sum of the histogram over its 256 bins, not the mean of the image
        constant = jnp.full((1, 1, 1), min(image.shape[0] * image.shape[1] / 256.0, 255.0))
        constant = jnp.floor(constant)
    else:
        constant = jnp.floor(luma.mean(keepdims=True) + 0.5)
    target = jnp.where(operation == NUMBER["color"], luma, constant)
    target = jnp.where(operation == NUMBER["brightness"], 0.0, target)
    target = jnp.where(operation == NUMBER["sharpness"], smoothed(image, cut), target)
    # As both write it: rounding to float32 would else move a factor of 1 off the image itself.
    return jnp.floor(jnp.clip(target + factor * (image - target) + EPSILON, 0.0, 255.0))


def smoothed(image, cut):
    """Pillow's SMOOTH: nine neighbours, the middle one five times; the border stays as it is."""
    height, width = image.shape[:2]
    rows = image[:-2] + image[1:-1] + image[2:]
    inner = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4.0 * image[1:-1, 1:-1]
    inner = jnp.floor(inner / 13.0 + cut + EPSILON)
    y, x = jnp.arange(height)[:, None, None], jnp.arange(width)[None, :, None]
    inside = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    return jnp.where(inside, jnp.pad(inner, ((1, 1), (1, 1), (0, 0))), image)


def matrix(shape, operation, amount, style):
    """Two rows (of x, of y and a constant) that say where in the image a pixel comes from, in
    pixels from its corner: Pillow's AFFINE. Of operations that do not move pixels, none."""
    height, width = shape[:2]
    turn = jnp.deg2rad(jnp.where(operation == NUMBER["rotate"], amount, 0.0))
    cos, sin = jnp.cos(turn), jnp.sin(turn)

    def only(name):
        return jnp.where(operation == NUMBER[name], amount, 0.0)

    centre = 0.5 if style == "tf" else 0.0  # where a shear is fixed
    right = only("translate_x") - centre * only("shear_x")
    down = only("translate_y") - centre * only("shear_y")
    right += width / 2.0 * (1.0 - cos) + height / 2.0 * sin
    down += height / 2.0 * (1.0 - cos) - width / 2.0 * sin
    return (cos, only("shear_x") - sin, right), (only("shear_y") + sin, cos, down)


def affine(image, rows, fill, sampling):
    """The image seen through `matrix`, Pillow's rules for what lies between pixels and outside."""
    height, width = image.shape[:2]
    x = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    from_x, from_y = (row[0] * x + row[1] * y + row[2] for row in rows)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)

    if sampling == "nearest":
        out = image[_whole(from_y, height), _whole(from_x, width)]
    else:
        # Each pixel with its three neighbours, borders repeated: one gather instead of four. Put
        # side by side in planes, behind a barrier: XLA would do it in the gather's layout.
        around = planes(jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge"))
        corners = [around[:, i : i + height + 1, j : j + width + 1] for i, j in np.ndindex(2, 2)]
        four = pixels(jax.lax.optimization_barrier(jnp.concatenate(corners)))
        top, left = from_y - 0.5, from_x - 0.5
        four = four[_whole(top + 1.0, height + 1), _whole(left + 1.0, width + 1)]
        four = four.reshape(height, width, 2, 2, 3)
        share = (left - jnp.floor(left))[:, :, None, None]
        upper_lower = (1.0 - share) * four[:, :, :, 0] + share * four[:, :, :, 1]
        share = (top - jnp.floor(top))[:, :, None]
        out = (1.0 - share) * upper_lower[:, :, 0] + share * upper_lower[:, :, 1]
        out = jnp.floor(out + EPSILON)
    fill = jnp.asarray(fill, jnp.float32)[None, None, :]
    return jnp.where(inside[:, :, None], out, fill)


def _whole(at, size):
    """The index of the pixel that a coordinate lies in, the nearest one where it lies in none."""
    return jnp.clip(jnp.floor(at).astype(jnp.int32), 0, size - 1)


def cutout(image, half, place, fill):
    """A square of 2 half pixels a side, cut off at the border, filled (arXiv:1708.04552)."""
    height, width = image.shape[:2]
    y, x = jnp.floor(place[0] * height), jnp.floor(place[1] * width)
    rows, columns = (jnp.arange(size, dtype=jnp.float32) for size in (height, width))
    rows, columns = (
        (rows >= y - half) & (rows < y + half),
        (columns >= x - half) & (columns < x + half),
    )
    inside = (rows[:, None] & columns[None, :])[:, :, None]
    return jnp.where(inside, jnp.asarray(fill, jnp.float32)[None, None, :], image)
