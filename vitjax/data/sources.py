"""Data sets with random access, by name."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from vitjax.data.folder import FolderSource
from vitjax.data.info import Info
from vitjax.data.mixture import Mixture
from vitjax.data.records import open_digits, open_tfds
from vitjax.data.shapes import open_shapes
from vitjax.data.shards import ShardSource
from vitjax.lookup import lookup


class Source(Protocol):
    """One split of a data set. Reading is safe from many threads; sources can be pickled."""

    info: Info
    labels: np.ndarray  # int32 [len(self)]
    lacking: tuple[str, ...]  # classes that have no image here, where that is known for nothing
    annotations: tuple[str, ...]  # what it knows of pixels, see annotations.py

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """{"image": bytes of an image file or uint8 pixels, "label": int}, and the annotations."""

    def key(self, index: int) -> str:
        """The lasting name of an example, for hashes and messages."""


def open_mixture(split, *, sets):
    """Several data sets as one, see mixture.Mixture.

    sets: {any name: {"name": a source, "weight": how often it is seen, and its settings}}; all have
    a split of this name.
    """
    if not isinstance(sets, Mapping) or not sets:
        raise ValueError(f"data.sets={sets!r}: expected a section per data set")
    opened, weights = [], []
    for name, section in sets.items():
        settings = dict(section)
        missing = {"name", "weight"} - set(settings)
        if missing:
            raise ValueError(f"data.sets.{name} has no {' or '.join(sorted(missing))}")
        weight = settings.pop("weight")
        if not isinstance(weight, (int, float)) or weight <= 0:
            raise ValueError(f"data.sets.{name}.weight={weight!r}: expected a number above 0")
        opened.append(create(settings.pop("name"), split, **settings))
        weights.append(weight)
    return Mixture(tuple(sets), tuple(opened), weights)


# Each takes the name of a split, then its own settings by keyword.
SOURCES = {
    "digits": open_digits,
    "folder": FolderSource,
    "tfds": open_tfds,
    "shapes": open_shapes,
    "array_record": ShardSource,
    "mixture": open_mixture,
}


def create(name, split, **settings) -> Source:
    """Opens one split of a data set; settings go to the source of that name, see SOURCES."""
    return lookup(SOURCES, name, "data.name")(split, **settings)
