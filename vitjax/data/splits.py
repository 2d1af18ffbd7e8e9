"""The splits of a data set: some examples of a source each."""

import dataclasses

import numpy as np

from vitjax.data import sampling, sources, subset
from vitjax.data.mixture import Mixture
from vitjax.data.order import example_at


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Some examples of a source, in order. indices: into the source, None for all of it. groups:
    how often which are seen in training, None for all alike."""

    source: sources.Source
    indices: np.ndarray | None = None
    groups: sampling.Groups | None = None

    def __len__(self):
        return len(self.source) if self.indices is None else len(self.indices)

    def __getitem__(self, index):
        return self.source[self._at(index)]

    def several(self, indices):
        """Examples at these indices, in one call where the source knows how (`__getitems__`)."""
        places = [self._at(index) for index in indices]
        if hasattr(self.source, "__getitems__"):
            return self.source.__getitems__(places)
        return [self.source[place] for place in places]

    def example_at(self, position, *, seed, shuffle):
        """(epoch, index) at a position of the endless training stream, see order.py."""
        if self.groups is not None:
            return self.groups.example_at(position, seed=seed, shuffle=shuffle)
        return example_at(position, seed=seed, size=len(self), shuffle=shuffle)

    def key(self, index):
        """The lasting name of an example."""
        return self.source.key(self._at(index))

    @property
    def labels(self):
        """int32 [len(self)]."""
        return self.source.labels if self.indices is None else self.source.labels[self.indices]

    @property
    def info(self):
        """Names of the data set and its classes."""
        return self.source.info

    def select(self, indices):
        """The examples at these indices of this split."""
        return Split(self.source, indices if self.indices is None else self.indices[indices])

    def keys(self):
        """The names of all examples."""
        return [self.key(index) for index in range(len(self))]

    def _at(self, index):
        return index if self.indices is None else int(self.indices[index])


def open_splits(
    name,
    *,
    train="train",
    test="test",
    validation=None,
    minival=0.1,
    fraction=1.0,
    subset_seed=0,
    balance=0.0,
    **settings,
):
    """Opens the splits of a data set. Returns {"train": Split, "validation": ..., "test": ...}.

    train, test, validation: names of splits of the source; test=None leaves it out. Without a
    validation split, the share `minival` of the training split is held out as one, the same for
    every fraction; minival=0 leaves it out. fraction: the share of what is left to train on;
    subset_seed: which. Both are class-balanced, see subset.py. balance: 0 shows training examples
    equally often, 1 classes; between, see sampling.py. Of a mixture, its weights say how often.
    settings: those of the source, see sources.SOURCES.
    Raises ValueError where a class is known to have no training images.
    """
    splits = {"train": Split(sources.create(name, train, **settings))}
    lacking = splits["train"].source.lacking
    if lacking:
        raise ValueError(
            f"no images in {train!r} of {len(lacking)} classes of other splits "
            f"({', '.join(lacking[:5])}): add some, or change data.train"
        )
    if validation is not None:
        splits["validation"] = Split(sources.create(name, validation, **settings))
    elif minival:
        whole = splits["train"]
        left, out = subset.holdout(whole.keys(), whole.labels, minival)
        if not len(out):
            raise ValueError(
                f"data.minival={minival} of {len(whole)} examples of {train!r} is none: raise it, "
                f"name a split in data.validation, or set data.minival=0"
            )
        splits["train"], splits["validation"] = whole.select(left), whole.select(out)
    if fraction != 1:
        whole = splits["train"]
        chosen = subset.subset(whole.keys(), whole.labels, fraction, subset_seed)
        splits["train"] = whole.select(chosen)
    splits["train"] = _sampled(splits["train"], balance)
    if test is not None:
        splits["test"] = Split(sources.create(name, test, **settings))
    return splits


def _sampled(split, balance):
    """A training split whose examples are seen as often as its weights, or `balance`, say."""
    groups = None
    if isinstance(split.source, Mixture):
        if balance:
            raise ValueError(f"data.balance={balance}: a mixture has weights, expected 0")
        groups = sampling.mixed(split.source.weights, split.source.members(split.indices))
    elif balance:
        groups = sampling.balanced(split.labels, balance)
    return dataclasses.replace(split, groups=groups)
