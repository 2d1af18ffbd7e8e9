"""Frozen features of a split: computed once per round, shared by all evaluators."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


class Inside(NamedTuple):
    """A frozen encoder from within: functions that jax traces and differentiates, of images
    [n, S, S, 3] in 0..255.

    layers, attends: names, see `models.features.Encoder`. features(images, layers=()) -> Features,
    float32. attention(images, names) -> see Encoder.attention; None without.
    """

    layers: tuple[str, ...]
    attends: tuple[tuple[str, int], ...]
    features: Callable
    attention: Callable | None


class Sample(NamedTuple):
    """Some images of a split, looked at closely: pixels, what is known of them, patch features.

    M images of S x S pixels, h x w patches, D width, K key points. What the data set does not know
    is None.
    """

    images: np.ndarray  # [M, S, S, 3] uint8, the evaluation crop
    rows: np.ndarray  # [M] int64, their places in the split
    label: np.ndarray  # [M] int32
    pooled: np.ndarray  # [M, D] float32
    patches: np.ndarray  # [M, h, w, D] float32
    encode: Callable  # images [n, S, S, 3] in 0..255 -> (pooled [n, D], patches [n, h, w, D])
    # (function, images, *more [n, ...]) -> host tree of function(Inside, images, *more), jitted and
    # a few images at a time: whatever it gives has a leading axis n. Give a function of a module,
    # not one made anew, so that it compiles once.
    measure: Callable | None = None
    mask: np.ndarray | None = None  # [M, S, S] uint8: class + 1; 0 background, 255 unknown
    part: np.ndarray | None = None  # [M, S, S] uint8: part, from 1; 0 none, 255 unknown
    depth: np.ndarray | None = None  # [M, S, S] float32: metres; 0 unknown
    points: np.ndarray | None = None  # [M, K, 3] float32: y, x (pixels), visible (0 or 1)


class Frozen(NamedTuple):
    """A split as a frozen encoder sees it: host arrays in the order of its examples.

    N examples, D width, C classes. What no evaluator of the round reads is None.
    """

    label: np.ndarray  # [N] int32
    pooled: np.ndarray  # [N, D] float32
    logits: np.ndarray | None = None  # [N, C] float32; None where the objective has no classes
    layers: tuple[np.ndarray, ...] | None = None  # [N, D_l] each: last four blocks, last first
    patch_mean: np.ndarray | None = None  # [N, D] float32
    rows: np.ndarray | None = None  # [N] int64, their places in the split
    sample: Sample | None = None
    # (rows, steps, batch_size, seed) -> Frozen of device arrays, one batch of augmented images of
    # these rows after the other.
    stream: Callable | None = None


# What extract may be asked for, beside "pooled".
FIELDS = ("logits", "layers", "patch_mean")


def extract(encode: Callable, batches: Iterable[dict]) -> Frozen:
    """Encode a split. Every process calls this, and gets all of it.

    encode(batch) -> {"pooled": [B, D], maybe some of FIELDS; layers a tuple of [B, D_l]}: a jitted
    function of global arrays. batches: as for `in_order`. Raises ValueError where the split has no
    labelled example, or one twice.
    """

    def encoded():
        for batch in batches:
            yield encode(batch) | {"label": batch["label"], "index": batch["index"]}

    whole = in_order(encoded())
    rows = whole.pop("index").astype(np.int64)
    label = whole.pop("label").astype(np.int32)
    whole = jax.tree.map(lambda array: array.astype(np.float32), whole)
    require_finite(whole["pooled"])
    return Frozen(label, rows=rows, **whole)


def in_order(batches: Iterable[dict]) -> dict:
    """Trees of global arrays -> host arrays of the whole split, in the order of its examples.

    batches: dicts of arrays with a leading axis B, among them "label" [B] (-1: a padding row,
    dropped here) and "index" [B], the place of the example in its split: rows are sorted by it, so
    the result does not depend on the batch size, the mesh or the number of hosts. Raises ValueError
    where there is no labelled example, or one twice.
    """
    parts, ahead = [], None
    for batch in batches:
        # Dispatched before the batch before it is fetched: the device does not wait for the copy.
        if ahead is not None:
            parts.append(real_rows(ahead))
        ahead = batch
    if ahead is not None:
        parts.append(real_rows(ahead))
    if not sum(len(part["label"]) for part in parts):
        raise ValueError("no labelled example in the split: evaluate a split that has labels")

    whole = jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
    order = np.argsort(whole["index"], kind="stable")
    index = whole["index"][order]
    if (index[1:] == index[:-1]).any():
        twice = index[1:][index[1:] == index[:-1]][0]
        raise ValueError(
            f"example {twice} came twice in one pass over the split: pad batches with label -1"
        )
    return jax.tree.map(lambda rows: rows[order], whole)


def real_rows(out: dict) -> dict:
    """Global arrays -> host rows that are not padding."""
    out = fetch(out)
    keep = out["label"] >= 0
    return jax.tree.map(lambda rows: rows[keep], out)


def take_sample(
    crop: Callable, encode: Callable, measure: Callable, batches: Iterable[dict]
) -> Sample:
    """Look closely at the examples of `batches` (as for `in_order`, with annotations).

    crop(batch) -> dict of global arrays: image, label, index, and annotations of the crop.
    encode, measure: see Sample.
    """
    whole = in_order(crop(batch) for batch in batches)
    images, rows = whole.pop("image"), whole.pop("index").astype(np.int64)
    label = whole.pop("label").astype(np.int32)
    pooled, patches = encode(images)
    require_finite(pooled)
    return Sample(images, rows, label, pooled, patches, encode, measure, **whole)


def require_finite(pooled: np.ndarray) -> None:
    """Raise ValueError for features of which evaluators would make plausible numbers."""
    wrong = ~np.isfinite(pooled).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"the features of {wrong.sum()} of {len(wrong)} images are not finite: the encoder "
            "diverged, or eval_views.mean and .std do not fit it"
        )


def in_batches(function: Callable, put: Callable, size: int) -> Callable:
    """A function of any number of rows of host arrays, from one of batches of `size` rows.

    function(global arrays [size, ...]) -> a tree of global arrays [size, ...]. put(host array) ->
    the same on the mesh. Arrays are given as float32.
    """

    def run(*arrays):
        parts, ahead = [], None
        for at in range(0, len(arrays[0]), size):
            rows = [np.asarray(array[at : at + size], np.float32) for array in arrays]
            real = len(rows[0])
            padded = (np.pad(r, ((0, size - real), *((0, 0),) * (r.ndim - 1))) for r in rows)
            out = function(*(put(array) for array in padded))
            if ahead is not None:
                parts.append(first_rows(*ahead))
            ahead = out, real
        parts.append(first_rows(*ahead))
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

    return run


def first_rows(out, count: int):
    return jax.tree.map(lambda rows: rows[:count], fetch(out))


class FeatureCache:
    """The features of each split, computed when first asked for: a new one for each round.

    encode(split) -> Frozen, look(split) -> Sample. seconds: {what: what it took}.
    """

    def __init__(self, encode: Callable, look: Callable):
        self.encode, self.look = encode, look
        self.frozen: dict[str, Frozen] = {}
        self.samples: dict[str, Sample] = {}
        self.seconds: dict[str, float] = {}

    def get(self, split: str, reads: Sequence[str]) -> Frozen:
        """reads: fields of Frozen. Who reads the sample alone gets a split of nothing else."""
        sample = None
        if "sample" in reads:
            if split not in self.samples:
                self.samples[split] = self._timed(self.look, split, f"sample_{split}")
            sample = self.samples[split]
            if set(reads) == {"sample"}:
                return Frozen(sample.label, sample.pooled, rows=sample.rows, sample=sample)
        if split not in self.frozen:
            self.frozen[split] = self._timed(self.encode, split, f"features_{split}")
        return self.frozen[split]._replace(sample=sample)

    def _timed(self, work, split, name):
        start = time.perf_counter()
        result = work(split)
        self.seconds[name] = time.perf_counter() - start
        return result


def evaluation_mesh() -> Mesh:
    """The mesh of the run (jax.set_mesh), or this process's first device where none is set."""
    mesh = jax.sharding.get_mesh()
    return Mesh(np.asarray(jax.local_devices()[:1]), ("data",)) if mesh.empty else mesh


def cut(rows: np.ndarray, mesh: Mesh, dim: int) -> jax.Array:
    """A host array that every process holds whole -> `dim` cut over all devices of the mesh."""
    spec = [None] * rows.ndim
    spec[dim] = mesh.axis_names
    sharding = NamedSharding(mesh, P(*spec))
    return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])


def fetch(arrays):
    """Global arrays, however they are cut -> whole host arrays in every process."""
    return multihost_utils.process_allgather(arrays, tiled=True)
