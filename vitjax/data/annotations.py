"""What a data set knows of the pixels of an image: masks, parts, depth, key points.

An example may hold, beside "image" and "label" and in pixels of that image (H x W):
"mask" uint8 [H, W] (class + 1; 0 background, 255 unknown), "part" uint8 [H, W] (from 1; 0 none, 255
unknown), "depth" float32 [H, W] (metres; 0 unknown), "points" float32 [K, 3] (y, x, visible; pixel
centres at whole numbers + 0.5). Maps may be the bytes of a PNG: a depth map of 16 bits counts
millimetres. `source.annotations` names those that a source has, `source.info.points` the K points.
"""

import io

import numpy as np
from PIL import Image

# Type, and the value of a pixel of which nothing is known.
MAPS = {"mask": (np.uint8, 255), "part": (np.uint8, 255), "depth": (np.float32, 0)}


def empty(source, rows, canvas):
    """Rows of annotations that say nothing: {name: array [rows, ...]}."""
    arrays = {}
    for name in source.annotations:
        if name == "points":
            arrays[name] = np.zeros((rows, len(source.info.points), 3), np.float32)
        else:
            kind, unknown = MAPS[name]
            arrays[name] = np.full((rows, canvas, canvas), unknown, kind)
    return arrays


def fill(arrays, row, example, shape, size):
    """Write the annotations of one example into its row.

    shape: height and width of the image as it was stored; size: on the canvas, at its top left.
    Raises ValueError for a map of another shape than its image.
    """
    for name, array in arrays.items():
        if name == "points":
            scale = np.array([size[0] / shape[0], size[1] / shape[1], 1.0], np.float32)
            array[row] = example[name] * scale[None, :]
            continue
        values = read_map(example[name], name)
        if values.shape != tuple(shape):
            raise ValueError(
                f"a {name} of {values.shape[0]} x {values.shape[1]} pixels belongs to an image of "
                f"{shape[0]} x {shape[1]}: they must be equal"
            )
        rows, columns = (
            np.floor((np.arange(new) + 0.5) * old / new).astype(int)
            for old, new in zip(shape, size, strict=True)
        )
        array[row, : size[0], : size[1]] = values[rows[:, None], columns[None, :]]


def read_map(value, name):
    """A map as an array [H, W] of its type; value: an array, or the bytes of an image file."""
    if isinstance(value, bytes):
        with Image.open(io.BytesIO(value)) as image:
            value = np.asarray(image)  # of a palette, the numbers and not their colours
        if name == "depth":
            value = value / np.float32(1000)
    value = np.asarray(value)
    if value.ndim == 3 and value.shape[2] == 1:
        value = value[:, :, 0]
    if value.ndim != 2:
        raise ValueError(f"a {name} is one number a pixel, got an array {list(value.shape)}")
    kind = MAPS[name][0]
    if kind is np.uint8 and (value.min() < 0 or value.max() > 255):
        raise ValueError(
            f"a {name} holds {value.min()} to {value.max()}, expected classes from 0 to 254, and "
            "255 for unknown"
        )
    return value.astype(kind)
