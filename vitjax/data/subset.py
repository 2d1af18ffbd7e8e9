"""Class-balanced subsets that nest, fixed by a hash of each example's key.

The rank of an example within its class depends on its key (and on the subset's own seed) alone, so
the 1% of a data set lies inside its 10% on every machine, in any file order and for every seed of
a run.
"""

import hashlib

import numpy as np


def subset(keys, labels, fraction, seed=0):
    """The share `fraction` of every class, at least one example of each.

    keys: sequence of str, unique. labels: int [N]. seed: another one draws others; those of one
    seed nest. Returns the sorted indices, int64.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of a split lies in (0, 1], got data.fraction={fraction}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 10**9:
        raise ValueError(f"data.subset_seed={seed!r}: expected a whole number from 0 to 999999999")
    ranks, counts = _ranks(keys, labels, b"subset" + (str(seed).encode() if seed else b""))
    return np.flatnonzero(ranks < np.maximum(1, np.rint(fraction * counts)))


def holdout(keys, labels, fraction):
    """Carves the share `fraction` of every class out, for validation.

    It is drawn by another hash than `subset`, and depends on no subset: carve first, then take a
    subset of what is left. A class keeps at least one example in the first part.
    Returns (indices left for training, indices held out), both sorted, int64.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the held-out share lies in [0, 1), got data.minival={fraction}")
    ranks, counts = _ranks(keys, labels, b"holdout")
    out = ranks < np.minimum(counts - 1, np.rint(fraction * counts))
    return np.flatnonzero(~out), np.flatnonzero(out)


def _ranks(keys, labels, salt):
    """For every example its rank by hash within its class, and the size of that class."""
    labels = np.asarray(labels)
    hashes = np.array([_hash(key, salt) for key in keys], np.uint64)
    order = np.lexsort((hashes, labels))
    _, starts, classes, counts = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    ranks = np.empty(len(labels), np.int64)
    sizes = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - starts[classes]
    sizes[order] = counts[classes]
    return ranks, sizes


def _hash(key, salt):
    digest = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8, salt=salt)
    return int.from_bytes(digest.digest())
