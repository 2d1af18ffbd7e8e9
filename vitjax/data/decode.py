"""Encoded bytes to a square uint8 canvas, the same pixels on every machine."""

import io
import math

import numpy as np
import simplejpeg
from PIL import Image

# Beyond this an image is taken for a decompression bomb, as Pillow warns from it on (89 million).
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
# What may stand in a file, whatever its name: Pillow would hand others to programs (Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


ENOUGH = 0.9  # of a canvas's side, not to resample what libjpeg has scaled


class UnreadableImage(ValueError):
    """The bytes are no image, or a broken one, or one too large to be honest."""


def decode(data, canvas, exact=True):
    """Decodes one image into the top-left corner of a square canvas.

    data: the bytes of an image file, or its pixels as uint8 [H, W], [H, W, 1] or [H, W, 3].
    canvas: side in pixels. An image with a longer side is shrunk until that side fits (Pillow,
    bicubic, antialiased, aspect kept); a smaller one keeps its pixels. exact: a JPEG that will be
    shrunk is decoded whole first, as published evaluations have it. Without, libjpeg decodes it
    straight to one of its sizes (eighths), at half the cost: the largest that fits, if it fills
    9/10 of the canvas, else the smallest that suffices, then shrunk by a triangle filter.

    Returns (uint8 [canvas, canvas, 3], int32 [2]): the canvas, zeros outside the image, and the
    height and width of the image in it. Orientation tags are ignored and transparency is
    dropped. Raises UnreadableImage.
    """
    return on_canvas(read(data, None if exact else canvas), canvas, exact)


def read(data, canvas=None):
    """The pixels of an image, uint8 [H, W, 3]; data as in `decode`. Raises UnreadableImage.

    canvas: a JPEG may come as small as this canvas needs it, see `decode`; or (height, width) that
    it has at least. None is its full size.
    """
    return _from_array(data) if isinstance(data, np.ndarray) else _from_bytes(data, canvas)


def crop_to_canvas(data, canvas, uniform, area=(0.08, 1.0), ratio=(3 / 4, 4 / 3)):
    """A random box of an image (torchvision's RandomResizedCrop), resized to fill the canvas.

    For images so much larger than the canvas that a box of the canvas would be blurred. uniform:
    22 numbers of [0, 1). The JPEG is decoded to the smallest size in which the box fills the
    canvas. Returns uint8 [canvas, canvas, 3]. Raises UnreadableImage.
    """
    height, width = dimensions(data)
    top, left, h, w = sample_box(height, width, uniform, area, ratio)
    wanted = (math.ceil(height * canvas / h), math.ceil(width * canvas / w))
    pixels = read(data, wanted) if isinstance(data, bytes) else read(data)
    down, right = pixels.shape[0] / height, pixels.shape[1] / width
    box = (left * right, top * down, (left + w) * right, (top + h) * down)
    corners = (int(box[0]), int(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    inside = Image.fromarray(np.ascontiguousarray(pixels)).crop(corners)
    box = (box[0] - corners[0], box[1] - corners[1], box[2] - corners[0], box[3] - corners[1])
    return np.asarray(inside.resize((canvas, canvas), Image.Resampling.BICUBIC, box))


def dimensions(data):
    """Height and width of an image, from its header. Raises UnreadableImage."""
    if isinstance(data, np.ndarray):
        return data.shape[:2]
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.height, image.width
    except Exception as error:
        raise UnreadableImage(f"unreadable image of {len(data)} bytes") from error


def sample_box(height, width, uniform, area, ratio):
    """(top, left, height, width) of torchvision's RandomResizedCrop: ten draws, then the centre."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for draw in range(10):
        target = height * width * (area[0] + (area[1] - area[0]) * uniform[draw])
        aspect = math.exp(low + (high - low) * uniform[10 + draw])
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(uniform[20] * (height - h + 1)), int(uniform[21] * (width - w + 1)), h, w
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def on_canvas(pixels, canvas, exact=True):
    """Pixels uint8 [H, W, 3] on a canvas: what `decode` returns."""
    image = np.zeros((canvas, canvas, 3), np.uint8)
    return image, put(image, pixels, exact)


def put(image, pixels, exact=True):
    """Writes pixels uint8 [H, W, 3] into a black canvas uint8 [canvas, canvas, 3], shrunk if they
    must be. Returns their height and width in it, int32 [2]."""
    height, width = pixels.shape[:2]
    size = _fitting(height, width, len(image))
    if size != (height, width):
        method = Image.Resampling.BICUBIC if exact else Image.Resampling.BILINEAR
        pixels = Image.fromarray(np.ascontiguousarray(pixels)).resize(size[::-1], method)
    image[: size[0], : size[1]] = pixels
    return np.array(size, np.int32)


def _from_array(pixels):
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        raise UnreadableImage(
            f"an image array is uint8 [H, W], [H, W, 1] or [H, W, 3], got {pixels.dtype} "
            f"{list(pixels.shape)}"
        )
    if 0 in pixels.shape:
        raise UnreadableImage(f"an image array of no pixels: {list(pixels.shape)}")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _from_bytes(data, canvas):
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS and colours not in ("CMYK", "YCCK"):
                least = _least(height, width, canvas)
                return simplejpeg.decode_jpeg(data, min_height=least[0], min_width=least[1])
        except ValueError:
            pass  # Pillow forgives some files that simplejpeg refuses, and explains the others
    return _by_pillow(data)


def _by_pillow(data):
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS}")
            return _rgb(image)
    except Exception as error:  # Pillow's plugins raise nearly anything on broken bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(f"unreadable image of {len(data)} bytes: {reason}") from error


def _rgb(image):
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit greys at 255
        return _three_channels((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit greys (mode {image.mode}) have no scale: store 8 or 16 bits")
    if image.mode == "L":
        return _three_channels(np.asarray(image))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def _three_channels(grey):
    return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))


def _fitting(height, width, canvas):
    """Height and width of an image shrunk to a canvas."""
    longer = max(height, width)
    if longer <= canvas:
        return height, width
    return max(1, round(height * canvas / longer)), max(1, round(width * canvas / longer))


def _least(height, width, canvas):
    """The least height and width to ask libjpeg for; canvas as in `read`."""
    if canvas is None:
        return height, width
    if isinstance(canvas, tuple):
        return min(canvas[0], height), min(canvas[1], width)
    eighths = min(8, 8 * canvas // max(height, width))
    if eighths * max(height, width) >= 8 * ENOUGH * canvas:
        return -(-height * eighths // 8), -(-width * eighths // 8)
    return _fitting(height, width, canvas)
