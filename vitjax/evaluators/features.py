"""Frozen features of a split: computed once per round, shared by all evaluators."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


class Frozen(NamedTuple):
    """A split as a frozen encoder sees it: host arrays in the order of its examples.

    N examples, D width, C classes.
    """

    pooled: np.ndarray  # [N, D] float32
    logits: np.ndarray | None  # [N, C] float32; None where the objective has no classes
    label: np.ndarray  # [N] int32


def extract(encode: Callable, batches: Iterable[dict]) -> Frozen:
    """Encode a split. Every process calls this, and gets all of it.

    encode(batch) -> {"pooled": [B, D], maybe "logits": [B, C]}: a jitted function of global arrays.
    batches: dicts of global arrays, among them "label" [B] (-1: a padding row, dropped here) and
    "index" [B], the place of the example in its split: rows are sorted by it, so the result does
    not depend on the batch size, the mesh or the number of hosts. Raises ValueError where the
    split has no labelled example, or one twice.
    """
    parts, ahead = [], None
    for batch in batches:
        # Dispatched before the batch before it is fetched: the device does not wait for the copy.
        out = encode(batch) | {"label": batch["label"], "index": batch["index"]}
        if ahead is not None:
            parts.append(real_rows(ahead))
        ahead = out
    if ahead is not None:
        parts.append(real_rows(ahead))
    if not sum(len(part["label"]) for part in parts):
        raise ValueError("no labelled example in the split: evaluate a split that has labels")

    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(whole["index"], kind="stable")
    index = whole["index"][order]
    if (index[1:] == index[:-1]).any():
        twice = index[1:][index[1:] == index[:-1]][0]
        raise ValueError(
            f"example {twice} came twice in one pass over the split: pad batches with label -1"
        )
    logits = whole["logits"][order].astype(np.float32) if "logits" in whole else None
    label = whole["label"][order].astype(np.int32)
    return Frozen(whole["pooled"][order].astype(np.float32), logits, label)


def real_rows(out: dict) -> dict:
    """Global arrays -> host rows that are not padding."""
    out = fetch(out)
    keep = out["label"] >= 0
    return {name: rows[keep] for name, rows in out.items()}


class FeatureCache:
    """The features of each split, computed when first asked for: a new one for each round.

    open_batches(split) -> the batches of that split. seconds: {split: what its features took}.
    """

    def __init__(self, encode: Callable, open_batches: Callable):
        self.encode, self.open_batches = encode, open_batches
        self.frozen: dict[str, Frozen] = {}
        self.seconds: dict[str, float] = {}

    def get(self, split: str) -> Frozen:
        if split not in self.frozen:
            start = time.perf_counter()
            self.frozen[split] = extract(self.encode, self.open_batches(split))
            self.seconds[split] = time.perf_counter() - start
        return self.frozen[split]


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
