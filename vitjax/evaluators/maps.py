"""Maps of features and of labels: found in a split, resized, cut into patches, worked on in turn.

M images of S x S pixels, h x w patches of p x q pixels, D width.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from vitjax.evaluators.features import Frozen, Sample, cut, evaluation_mesh, fetch

PLURAL = {"mask": "masks", "part": "part masks", "depth": "depth", "points": "key points"}


def sample_with(split: Frozen, fields: tuple[str, ...], evaluator: str) -> Sample:
    """The sample of a split, where it has at least one of these. Raises ValueError otherwise."""
    sample = split.sample
    if sample is None or all(getattr(sample, field) is None for field in fields):
        lacking = " or ".join(PLURAL[field] for field in fields)
        raise ValueError(
            f"evaluators.{evaluator}: the data set has no {lacking}; "
            f"evaluate one that has, or remove evaluators.{evaluator}"
        )
    return sample


def bilinear(at: np.ndarray, cells: int) -> np.ndarray:
    """float32 [..., cells]: weights that interpolate linearly between cells of a line.

    at: [...] positions, the centre of cell i at i + 0.5; beyond the outer centres the outer cell
    counts alone (as PyTorch with align_corners=False).
    """
    at = np.clip(np.asarray(at, np.float64) - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(at[..., None] - np.arange(cells))).astype(np.float32)


def upsampling(pixels: int, cells: int) -> np.ndarray:
    """float32 [pixels, cells]: the bilinear weights of each pixel of a line of cells."""
    return bilinear((np.arange(pixels) + 0.5) * (cells / pixels), cells)


def nearest(pixels: int, cells: int) -> np.ndarray:
    """int64 [pixels]: the cell that holds the centre of each pixel."""
    return ((2 * np.arange(pixels) + 1) * cells) // (2 * pixels)


def label_patches(labels: np.ndarray, h: int, w: int) -> np.ndarray:
    """[M, S, S] -> [M, h, w, p * q], p = S // h and q = S // w: the pixels of each patch.

    Where the grid does not divide S, the labels are first resized to (h p) x (w q) by nearest
    neighbour.
    """
    size = labels.shape[1]
    p, q = size // h, size // w
    labels = labels[:, nearest(h * p, size)][:, :, nearest(w * q, size)]
    labels = labels.reshape(-1, h, p, w, q).transpose(0, 1, 3, 2, 4)
    return labels.reshape(-1, h, w, p * q)


def majority(labels: np.ndarray) -> np.ndarray:
    """uint8 [M, ..., n] -> uint8 [M, ...]: the most frequent of n labels, the lowest of equals."""
    result = np.zeros(labels.shape[:-1], np.uint8)
    for i, image in enumerate(labels):
        rows = image.reshape(-1, image.shape[-1])
        cells = 256 * np.arange(len(rows))[:, None] + rows
        counts = np.bincount(cells.ravel(), minlength=256 * len(rows)).reshape(-1, 256)
        result[i] = counts.argmax(axis=1).reshape(result.shape[1:])
    return result


def each_row(function: Callable, shared, rows, together: bool = False):
    """function(shared, row) of each row, the rows cut over the mesh: -> host arrays, stacked.

    shared: a pytree every device holds whole; rows: a pytree of host arrays [n, ...]. A device
    takes its rows one by one, so that no number depends on how many there are, or all together.
    function: of a module, not made anew for each call (it is what compiled programs are kept by).
    """
    mesh = evaluation_mesh()
    count = len(jax.tree.leaves(rows)[0])
    filled = np.arange(count + -count % mesh.size) % count  # some rows twice, to fill the devices
    rows = jax.tree.map(lambda leaf: cut(np.asarray(leaf)[filled], mesh, 0), rows)
    out = fetch(on_devices(function, shared, rows, mesh=mesh, together=together))
    return jax.tree.map(lambda leaf: leaf[:count], out)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("mesh", "together"))
def on_devices(function, shared, rows, *, mesh, together):
    axes = mesh.axis_names

    def on_device(shared, rows):
        one = functools.partial(function, shared)
        return jax.vmap(one)(rows) if together else jax.lax.map(one, rows)

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(P(), P(axes)), out_specs=P(axes), check_vma=False
    )(shared, rows)
