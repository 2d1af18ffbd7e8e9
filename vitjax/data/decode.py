"""Encoded bytes to a square uint8 canvas, the same pixels on every machine."""

import io

import numpy as np
import simplejpeg
from PIL import Image

# Beyond this an image is taken for a decompression bomb, as Pillow warns from it on (89 million).
MAX_PIXELS = Image.MAX_IMAGE_PIXELS
# What may stand in a file, whatever its name: Pillow would hand others to programs (Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


class UnreadableImage(ValueError):
    """The bytes are no image, or a broken one, or one too large to be honest."""


def decode(data, canvas):
    """Decodes one image into the top-left corner of a square canvas.

    data: the bytes of an image file, or its pixels as uint8 [H, W], [H, W, 1] or [H, W, 3].
    canvas: side in pixels. An image with a longer side is shrunk until that side fits (Pillow,
    bicubic, antialiased, aspect kept); a smaller one keeps its pixels.

    Returns (uint8 [canvas, canvas, 3], int32 [2]): the canvas, zeros outside the image, and the
    height and width of the image in it. Orientation tags are ignored and transparency is
    dropped. Raises UnreadableImage.
    """
    return on_canvas(read(data), canvas)


def read(data):
    """The pixels of an image, uint8 [H, W, 3]; data as in `decode`. Raises UnreadableImage."""
    return _from_array(data) if isinstance(data, np.ndarray) else _from_bytes(data)


def on_canvas(pixels, canvas):
    """Pixels uint8 [H, W, 3] on a canvas: what `decode` returns."""
    pixels = _shrink(pixels, canvas)
    height, width = pixels.shape[:2]
    image = np.zeros((canvas, canvas, 3), np.uint8)
    image[:height, :width] = pixels
    return image, np.array([height, width], np.int32)


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


def _from_bytes(data):
    if data[:3] == b"\xff\xd8\xff":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS and colours not in ("CMYK", "YCCK"):
                return simplejpeg.decode_jpeg(data)
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


def _shrink(pixels, canvas):
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if longer <= canvas:
        return pixels
    size = (max(1, round(width * canvas / longer)), max(1, round(height * canvas / longer)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
