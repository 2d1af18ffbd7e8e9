"""Crop and resize on the accelerator: two small matrices of weights per image.

B batch, S side of the canvas. Images are uint8 [S, S, 3], the image at the top-left corner of its
canvas; results are float32 in 0..255. The weights never reach beyond the crop, so a result equals
"crop, then resize" (torchvision's order), and what fills the rest of the canvas never matters.
"""

import math

import jax
import jax.numpy as jnp


def _triangle(x):
    return jnp.maximum(0.0, 1.0 - jnp.abs(x))


def _cubic(x):
    """Cubic convolution with a = -0.5, Pillow's BICUBIC (Keys 1981, eq. 4 and 15)."""
    x = jnp.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return jnp.where(x < 1.0, near, jnp.where(x < 2.0, far, 0.0))


KERNELS = {"linear": _triangle, "cubic": _cubic}


def resampling(inputs, outputs, *, start, length, resized, offset, flip, method, antialias):
    """Weights [outputs, inputs] that resize pixels start .. start + length to `resized` pixels and
    keep `outputs` of those from `offset` on, reversed where `flip` is true.

    inputs, outputs: static sizes. start, length, resized, offset: int32 scalars; flip: bool scalar.
    Kept pixels that lie outside the resized image are zero padding: their row of weights is zero.
    With antialias the kernel widens as the image shrinks (as in Pillow); without it never does.
    """
    scale = jnp.float32(length) / jnp.float32(resized)
    j = jnp.arange(outputs)
    j = jnp.where(flip, outputs - 1 - j, j) + offset
    inside = (j >= 0) & (j < resized)
    centre = (
        jnp.float32(start) - 0.5 + (jnp.clip(j, 0, resized - 1).astype(jnp.float32) + 0.5) * scale
    )
    i = jnp.arange(inputs)
    width = jnp.maximum(scale, 1.0) if antialias else 1.0
    weights = KERNELS[method]((i.astype(jnp.float32)[None, :] - centre[:, None]) / width)
    weights = jnp.where(((i >= start) & (i < start + length))[None, :], weights, 0.0)
    weights = weights / weights.sum(axis=1, keepdims=True)
    return jnp.where(inside[:, None], weights, 0.0)


def resample(image, rows, columns):
    """Applies the weights of rows [y, S] and columns [x, S] to an image [S, S, 3]: [y, x, 3]."""
    highest = jax.lax.Precision.HIGHEST
    image = jnp.asarray(image).astype(jnp.float32)
    # Pillow clips the overshoot of the cubic kernel after each of its two passes, columns first.
    image = jnp.clip(jnp.einsum("xw,hwc->hxc", columns, image, precision=highest), 0.0, 255.0)
    return jnp.clip(jnp.einsum("yh,hxc->yxc", rows, image, precision=highest), 0.0, 255.0)


def window(image, size, *, start, length, resized, offset, flip, method, antialias):
    """A size x size window of a resized part of an image [S, S, 3]: float32 [size, size, 3].

    start, length, resized, offset: pairs, of rows and of columns, see `resampling`. flip: mirrors
    left and right.
    """
    rows, columns = (
        resampling(
            image.shape[dim],
            size,
            start=start[dim],
            length=length[dim],
            resized=resized[dim],
            offset=offset[dim],
            flip=flip if dim == 1 else False,
            method=method,
            antialias=antialias,
        )
        for dim in (0, 1)
    )
    return resample(image, rows, columns)


def crop_resize(image, top, left, height, width, flip, size, method="linear", antialias=True):
    """The box of an image, resized to [size, size, 3]: float32 in 0..255.

    image: uint8 [S, S, 3]. top, left, height, width: int32 scalars in pixels, inside the image.
    flip: bool scalar, mirrors left and right.
    """
    return window(
        image,
        size,
        start=(top, left),
        length=(height, width),
        resized=(size, size),
        offset=(0, 0),
        flip=flip,
        method=method,
        antialias=antialias,
    )


def pad_crop(image, true_size, dy, dx, flip, size, pad, method="linear", antialias=True):
    """The whole image resized to size x size, padded by `pad` zeros, cropped back at (dy, dx).

    image: uint8 [S, S, 3]; true_size: int32 [2]; dy, dx: int32 scalars in 0 .. 2 * pad.
    Returns float32 [size, size, 3] in 0..255. An image of that size already is only shifted.
    """
    return window(
        image,
        size,
        start=(0, 0),
        length=true_size,
        resized=(size, size),
        offset=(dy - pad, dx - pad),
        flip=flip,
        method=method,
        antialias=antialias,
    )


def sample_box(key, true_size, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """Box (top, left, height, width), int32 scalars, of torchvision's RandomResizedCrop.

    true_size: int32 [2] (height, width). area: range of the share of the image, uniform. ratio:
    range of width / height, log-uniform. The first of ten draws that fits is taken, at a uniform
    place; if none fits, the largest centred box whose ratio lies in the range.
    """
    height, width = true_size[0], true_size[1]
    uniform = jax.random.uniform(key, (22,))
    pixels = height.astype(jnp.float32) * width.astype(jnp.float32)
    target = pixels * (area[0] + (area[1] - area[0]) * uniform[:10])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = jnp.exp(low + (high - low) * uniform[10:20])
    widths = jnp.round(jnp.sqrt(target * aspect)).astype(jnp.int32)
    heights = jnp.round(jnp.sqrt(target / aspect)).astype(jnp.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, found = jnp.argmax(fits), fits.any()

    whole = width.astype(jnp.float32) / height.astype(jnp.float32)
    tallest = jnp.round(width.astype(jnp.float32) / ratio[0]).astype(jnp.int32)
    widest = jnp.round(height.astype(jnp.float32) * ratio[1]).astype(jnp.int32)
    h = jnp.where(found, heights[first], jnp.where(whole < ratio[0], tallest, height))
    w = jnp.where(found, widths[first], jnp.where(whole > ratio[1], widest, width))
    top = jnp.where(found, whole_below(uniform[20], height - h + 1), (height - h) // 2)
    left = jnp.where(found, whole_below(uniform[21], width - w + 1), (width - w) // 2)
    return top, left, h, w


def whole_below(uniform, count):
    """A uniform number of [0, 1) as an int32 in 0 .. count - 1; count: int32, far below 2**24."""
    return jnp.floor(uniform * jnp.float32(count)).astype(jnp.int32)


def random_resized_crop(
    image,
    true_size,
    key,
    flip,
    size,
    area=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    method="linear",
    antialias=True,
):
    """A random box (`sample_box`) of an image [S, S, 3], resized: float32 [size, size, 3]."""
    top, left, height, width = sample_box(key, true_size, area, ratio)
    return crop_resize(image, top, left, height, width, flip, size, method, antialias)


def _half(n):
    """int(round(n / 2)) of Python, as torchvision's CenterCrop: halves go to the even number."""
    return n // 2 + (n % 2) * (n // 2 % 2)


def center_geometry(true_size, size, crop):
    """(resized, offset), int32 [2] each: shorter side to round(size / crop), then the centre."""
    resize = round(size / crop)
    # A row that pads a batch may have size 0: XLA's n // 0 is -1, which gives a black image.
    resized = resize * true_size // true_size.min()
    return resized, _half(resized - size)


def center_crop(batch, size, crop=0.875, method="cubic", antialias=True):
    """The evaluation transform: shorter side to round(size / crop), then the centre.

    batch: {"image": uint8 [B, S, S, 3], "size": int32 [B, 2], ...}. Returns float32
    [B, size, size, 3] in 0..255: torchvision's Resize + CenterCrop on a Pillow image up to Pillow's
    rounding. Smaller images are enlarged. With crop 1 an image of this size comes back bit for bit.
    """

    def one(image, true_size):
        resized, offset = center_geometry(true_size, size, crop)
        return window(
            image,
            size,
            start=(0, 0),
            length=true_size,
            resized=resized,
            offset=offset,
            flip=False,
            method=method,
            antialias=antialias,
        )

    return jax.vmap(one)(batch["image"], batch["size"])


def center_crop_maps(maps, true_sizes, size, crop=0.875):
    """Maps of numbers [B, S, S] as `center_crop` would have them, nearest pixel: [B, size, size].

    true_sizes: int32 [B, 2]. Beyond the image stands the value of its map's last pixel.
    """

    def one(values, true_size):
        resized, offset = center_geometry(true_size, size, crop)

        def places(dim):
            j = jnp.clip(jnp.arange(size) + offset[dim], 0, resized[dim] - 1)
            scale = true_size[dim].astype(jnp.float32) / resized[dim].astype(jnp.float32)
            place = jnp.floor((j.astype(jnp.float32) + 0.5) * scale).astype(jnp.int32)
            return jnp.clip(place, 0, true_size[dim] - 1)

        return values[places(0)[:, None], places(1)[None, :]]

    return jax.vmap(one)(maps, true_sizes)


def center_crop_points(points, true_sizes, size, crop=0.875):
    """Points (y, x, visible) [B, K, 3] in pixels, as `center_crop` would have them; what falls
    outside of the crop is not visible."""

    def one(points, true_size):
        resized, offset = center_geometry(true_size, size, crop)
        scale = resized.astype(jnp.float32) / true_size.astype(jnp.float32)
        place = points[:, :2] * scale[None, :] - offset.astype(jnp.float32)[None, :]
        inside = ((place >= 0) & (place < size)).all(axis=1)
        return jnp.concatenate([place, jnp.where(inside, points[:, 2], 0.0)[:, None]], axis=1)

    return jax.vmap(one)(points, true_sizes)
