"""Splits made by hand, in which a test plants what an evaluator is to find."""

import jax
import numpy as np
from jax.sharding import AxisType

from vitjax.evaluators import Frozen
from vitjax.evaluators.features import Sample

TYPES = {"mask": np.uint8, "part": np.uint8, "depth": np.float32, "points": np.float32}


def frozen(pooled, label, sample=None):
    """Whole images: vectors [N, D] and their classes [N]."""
    return Frozen(np.asarray(label, np.int32), np.asarray(pooled, np.float32), sample=sample)


def looked_at(patches, label=None, pooled=None, size=6, **known):
    """A split that is all sample: patches [M, h, w, D]; black images of the side of their maps.

    label: 0 where left out. pooled: the mean patch. known: mask, part, depth, points.
    """
    patches = np.asarray(patches, np.float32)
    known = {name: np.asarray(value, TYPES[name]) for name, value in known.items()}
    size = next((value.shape[1] for name, value in known.items() if name != "points"), size)
    whole = frozen(
        patches.mean(axis=(1, 2)) if pooled is None else pooled,
        np.zeros(len(patches)) if label is None else label,
    )
    images = np.zeros((len(patches), size, size, 3), np.uint8)
    rows = np.arange(len(patches))
    sample = Sample(images, rows, whole.label, whole.pooled, patches, encode=None, **known)
    return whole._replace(sample=sample)


def eight_devices():
    """The mesh whose numbers have to be those of one device."""
    return jax.make_mesh((2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)


def eight_in_a_row():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
