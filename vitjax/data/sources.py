"""Data sets with random access, by name."""

from typing import Protocol

import numpy as np

from vitjax.data.folder import FolderSource
from vitjax.data.info import Info
from vitjax.data.records import open_digits, open_tfds
from vitjax.data.shapes import open_shapes
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


# Each takes the name of a split, then its own settings by keyword.
SOURCES = {
    "digits": open_digits,
    "folder": FolderSource,
    "tfds": open_tfds,
    "shapes": open_shapes,
}


def create(name, split, **settings) -> Source:
    """Opens one split of a data set; settings go to the source of that name, see SOURCES."""
    return lookup(SOURCES, name, "data.name")(split, **settings)
