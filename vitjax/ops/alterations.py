"""Alterations of images that leave the class alone, or a cue to it: on the host, in NumPy.

M images of S x S pixels, in 0..255, uint8 or float; results are float32. What is random is drawn by
the caller.
"""

import numpy as np

from vitjax.ops.colour import GREY_WEIGHTS
from vitjax.ops.corruption_fields import box_weights


def translate(images, offsets, padding):
    """Moves image m down and right by offsets[m] = (dy, dx) whole pixels.

    padding: "reflect" mirrors the image about its border pixels, "edge" repeats those, "wrap" lets
    what leaves come in on the other side. Offsets are smaller than S.
    """
    side = images.shape[1]
    at = np.arange(side)[None, None, :] - np.asarray(offsets)[:, :, None]  # [M, 2, S]
    if padding == "reflect":
        at = (side - 1) - np.abs((side - 1) - np.abs(at))
    if padding == "wrap":
        at = at % side
    at = np.clip(at, 0, side - 1)
    each = np.arange(len(images))[:, None, None]
    return images[each, at[:, 0, :, None], at[:, 1, None, :]].astype(np.float32)


def shuffle(images, grid, orders):
    """Cuts images into grid x grid cells; place p of image m gets the cell orders[m, p].

    Cells are of S // grid pixels; what is left over at the right and at the bottom stays.
    """
    count, cell = len(images), images.shape[1] // grid
    out = np.array(images, np.float32)
    inner = out[:, : cell * grid, : cell * grid]
    cells = inner.reshape(count, grid, cell, grid, cell, 3).transpose(0, 1, 3, 2, 4, 5)
    cells = cells.reshape(count, grid * grid, cell, cell, 3)
    cells = cells[np.arange(count)[:, None], orders].reshape(count, grid, grid, cell, cell, 3)
    inner[:] = cells.transpose(0, 1, 3, 2, 4, 5).reshape(inner.shape)
    return out


def occlude(images, dropped):
    """Blackens the cells of a g x g grid where dropped, bool [M, g, g], is true.

    Pixel y lies in row y g // S of the grid, so that all pixels lie in some cell.
    """
    side, grid = images.shape[1], dropped.shape[1]
    cell = np.arange(side) * grid // side
    black = dropped[:, cell][:, :, cell]
    return np.where(black[..., None], np.float32(0), images.astype(np.float32))


def shrink(images, share):
    """Images of a share of the side in the middle of a canvas of their mean colour."""
    side = images.shape[1]
    small = max(1, round(side * share))
    weights = box_weights(side, small).astype(np.float32)
    canvas = np.empty(images.shape, np.float32)
    canvas[:] = images.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    start = (side - small) // 2
    object_ = np.einsum("yh,mhwc->mywc", weights, images.astype(np.float32), optimize=True)
    object_ = np.einsum("xw,mywc->myxc", weights, object_, optimize=True)
    canvas[:, start : start + small, start : start + small] = object_
    return canvas


def enlarge(images):
    """The middle of each image at twice its size, every pixel four; S is a multiple of 4."""
    side = images.shape[1]
    inner = slice(side // 4, side - side // 4)
    return np.repeat(np.repeat(images[:, inner, inner], 2, 1), 2, 2).astype(np.float32)


def ring_noise(images, rings, ring, strength, generators):
    """Adds noise of one band of spatial frequencies, its deviation `strength` in each channel.

    rings: frequencies from 0 to the highest of a row, side / 2 cycles an image, in so many bands of
    equal width; ring: which, from 0, the lowest. generators: one of random numbers for each image.
    Nothing is clipped: that would add other frequencies.
    """
    side = images.shape[1]
    waves = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side)] * 2, indexing="ij")) * 2  # 1 is Nyquist
    inside = (waves > ring / rings) & (waves <= (ring + 1) / rings)
    out = np.array(images, np.float32)
    for image, generator in zip(out, generators, strict=True):
        white = np.fft.fft2(generator.normal(size=image.shape), axes=(0, 1))
        noise = np.fft.ifft2(white * inside[..., None], axes=(0, 1)).real
        image += strength * noise / np.maximum(noise.std(axis=(0, 1)), 1e-12)
    return out


def swap_amplitude(images, styles):
    """The phase of the spectrum of images with the amplitude of that of styles, clipped to 0..255.

    Per channel. Phase holds where edges are, hence shape; amplitude holds contrast and texture
    (Oppenheim and Lim 1981).
    """
    shape = np.fft.rfft2(np.asarray(images, np.float64), axes=(1, 2))
    texture = np.fft.rfft2(np.asarray(styles, np.float64), axes=(1, 2))
    mixed = np.abs(texture) * np.exp(1j * np.angle(shape))
    out = np.fft.irfft2(mixed, s=images.shape[1:3], axes=(1, 2))
    return np.clip(out, 0, 255).astype(np.float32)


def recolour(images, styles):
    """images with the mean and the standard deviation of each channel of styles, clipped to 0..255.

    AdaIN (arXiv:1703.06868, eq. 8) on pixels.
    """
    images, styles = (np.asarray(x, np.float64) for x in (images, styles))
    mean, std = images.mean(axis=(1, 2), keepdims=True), images.std(axis=(1, 2), keepdims=True)
    scale = styles.std(axis=(1, 2), keepdims=True) / np.where(std > 0, std, 1.0)
    out = (images - mean) * scale + styles.mean(axis=(1, 2), keepdims=True)
    return np.clip(out, 0, 255).astype(np.float32)


def grey(images):
    """Luma in all three channels."""
    luma = np.asarray(images, np.float32) @ np.asarray(GREY_WEIGHTS, np.float32)
    return np.repeat(luma[..., None], 3, axis=3)
