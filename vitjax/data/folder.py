"""Folders of images, and tar archives of them."""

import json
import os
import pathlib
import posixpath

import numpy as np

from vitjax.data.archive import EXTENSIONS, open_files
from vitjax.data.info import Info


class FolderSource:
    """One split of a folder of images, or of a tar archive of it; images stay encoded.

    path: a folder `split/class/**/image.jpg`, or `class/image.jpg` (its only split is "all"), or
    images without folders (split "all", class "unlabelled"); or a .tar, .tar.gz or .tar.xz of one
    of these. A compressed archive is unpacked to a plain one, once, in $VITJAX_CACHE or
    ~/.cache/vitjax. Labels number the sorted names of the classes of all splits together.

    mask, part, depth: a folder or archive of PNG maps each, named as the images are (see
    annotations.py); points: a JSON file {"names": [K], "points": {image: [[y, x, visible], ...]}}.
    """

    def __init__(
        self, split, *, path, licence="unknown", mask=None, part=None, depth=None, points=None
    ):
        path = os.fspath(path)
        self._files = open_files(path)
        images, folders = self._files.listing()
        levels = _depth(path, images)
        splits = sorted({name.split("/")[0] for name in images}) if levels == 2 else ["all"]
        if split not in splits:
            raise ValueError(
                f"{path} has no split {split!r}, only {', '.join(splits)}: change the split named "
                f"in data, or data.path"
            )
        prefix = f"{split}/" if levels == 2 else ""
        self._names = sorted(name for name in images if name.startswith(prefix))
        self._places = [images[name] for name in self._names]
        classes = [_class(name, levels) for name in self._names]
        _refuse_empty_classes(path, prefix, levels, folders, set(classes))
        names = tuple(sorted({_class(name, levels) for name in images}))
        numbers = {name: number for number, name in enumerate(names)}
        self.labels = np.array([numbers[name] for name in classes], np.int32)
        self.lacking = tuple(name for name in names if name not in set(classes))
        maps = {"mask": mask, "part": part, "depth": depth}
        self._maps = {
            kind: _Maps(kind, where, self._names)
            for kind, where in maps.items()
            if where is not None
        }
        self._points = _read_points(points, self._names) if points is not None else None
        self.annotations = (*self._maps, *(("points",) if points is not None else ()))
        named = self._points["names"] if points is not None else ()
        self.info = Info(pathlib.Path(path).name.split(".")[0], names, licence, tuple(named))

    def __len__(self):
        return len(self._names)

    def __getitem__(self, index):
        name = self._names[index]
        example = {"image": self._files.read(self._places[index]), "label": int(self.labels[index])}
        example |= {kind: maps.read(name) for kind, maps in self._maps.items()}
        if self._points is not None:
            example["points"] = np.asarray(self._points["points"][name], np.float32)
        return example

    def key(self, index):
        return self._names[index]


class _Maps:
    """The maps of one kind that lie in another folder or archive, by the names of their images."""

    def __init__(self, kind, path, images):
        self._files = open_files(os.fspath(path), f"data.{kind}")
        self._places = {
            posixpath.splitext(name)[0]: place for name, place in self._files.listing()[0].items()
        }
        lacking = [name for name in images if posixpath.splitext(name)[0] not in self._places]
        if lacking:
            raise ValueError(
                f"{path} holds no {kind} of {len(lacking)} images, {lacking[0]} the first: change "
                f"data.{kind}"
            )

    def read(self, name):
        return self._files.read(self._places[posixpath.splitext(name)[0]])


def _read_points(path, names):
    """The JSON of key points, checked: every image has as many as there are names."""
    try:
        points = json.loads(pathlib.Path(path).read_text())
        count = len(points["names"])
        wrong = [name for name in names if np.shape(points["points"].get(name)) != (count, 3)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no key points ({type(error).__name__}: {error}): expected "
            '{"names": [...], "points": {image: [[y, x, visible], ...]}} in data.points'
        ) from error
    if wrong:
        raise ValueError(
            f"{path} has not {count} points (y, x, visible) for {len(wrong)} images, {wrong[0]} "
            "the first: change data.points"
        )
    return points


def _depth(path, images):
    """2 for split/class/image (or deeper), 1 for class/image, 0 for images alone."""
    if not images:
        raise ValueError(
            f"no images in {path} (no file ends in {', '.join(EXTENSIONS)}): change data.path"
        )
    examples = {min(name.count("/"), 2): name for name in sorted(images, reverse=True)}
    if len(examples) > 1:
        raise ValueError(
            f"{path} mixes layouts, {' and '.join(examples[key] for key in sorted(examples))}: "
            f"expected split/class/image, class/image, or images alone in data.path"
        )
    return min(examples)


def _class(name, depth):
    return name.split("/")[depth - 1] if depth else "unlabelled"


def _refuse_empty_classes(path, prefix, depth, folders, filled):
    empty = sorted(
        name
        for name in folders
        if name.startswith(prefix)
        and name.count("/") == depth - 1
        and name.split("/")[-1] not in filled
    )
    if empty:
        raise ValueError(
            f"no images in {', '.join(empty[:5])} of {path} ({len(empty)} empty classes): remove "
            f"these folders or change data.path"
        )
