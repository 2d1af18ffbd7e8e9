"""Which example stands where when some are to be seen more often: mixtures and balanced classes.

As in order.py, a pure function of (seed, position): exact on resume and for any number of hosts.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from vitjax.data.order import example_at

BLOCK = 2**16  # positions in which every group has its share, to one place


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Examples in groups, each with its share of the stream.

    members: for each group the indices of its examples, an array or a range. weights: one positive
    number per group; their sum does not matter. Every group runs through its own examples in epochs
    of its own, each a new permutation. In every BLOCK positions a group stands as often as its
    weight says, rounded, in an order that the seed shuffles.
    """

    members: tuple
    weights: tuple

    def example_at(self, position, *, seed, shuffle):
        """(epoch of its group, index) at a position of the endless stream."""
        places, ranks, counts = _pattern(self.weights, seed)
        block, place = divmod(position, len(places))
        group = int(places[place])
        turn = block * int(counts[group]) + int(ranks[place])
        members = self.members[group]
        salted = _salted(seed, group)
        epoch, number = example_at(turn, seed=salted, size=len(members), shuffle=shuffle)
        return epoch, int(members[number])


def mixed(weights, members):
    """Groups by data set. members: the indices of the examples of each, an array or a range."""
    lacking = [number for number, each in enumerate(members) if not len(each)]
    if lacking:
        raise ValueError(f"data.sets: no examples of number {lacking[0]} are left to train on")
    return Groups(tuple(members), tuple(weights))


def balanced(labels, balance):
    """Groups by class: weights count ** (1 - balance), so 1 shows all classes equally often.

    balance: in (0, 1]; 0.5 is square-root sampling (arXiv:1805.00932).
    """
    if not 0 < balance <= 1:
        raise ValueError(f"data.balance={balance}: expected a number in [0, 1], 0 for none")
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    members = tuple(np.split(order, starts[1:]))
    return Groups(members, tuple(counts.astype(float) ** (1 - balance)))


@functools.lru_cache(maxsize=8)
def _pattern(weights, seed):
    """(group of each place, how often it stood before, how often each stands in all)."""
    shares = np.asarray(weights, np.float64)
    shares = shares / shares.sum() * max(BLOCK, 16 * len(weights))
    counts = np.floor(shares).astype(np.int64)
    left = round(shares.sum()) - counts.sum()
    counts[np.argsort(counts - shares, kind="stable")[:left]] += 1
    counts = np.maximum(counts, 1)
    groups = np.repeat(np.arange(len(counts)), counts)
    # Evenly spread first, so that a weight holds in every stretch; then a shuffle within stretches.
    spread = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    generator = np.random.RandomState(_salted(seed, "pattern"))  # its stream is promised: NEP 19
    places = groups[np.argsort(spread + generator.uniform(size=len(spread)) / counts[groups])]
    ranks = np.empty(len(places), np.int64)
    order = np.argsort(places, kind="stable")
    ranks[order] = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return places, ranks, counts


@functools.lru_cache(maxsize=2**14)
def _salted(seed, salt):
    """32 bits, so that groups of one size are not shuffled alike."""
    digest = hashlib.blake2b(f"{seed}/group/{salt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest)
