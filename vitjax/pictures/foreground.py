"""The object and its parts: what the first component of patch features sets apart, cut out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitjax.evaluators.foreground import first_component
from vitjax.pictures.pca import principal
from vitjax.pictures.sheet import label, sheet, show, upsample, write

# M images of S x S pixels, h x w grid of patches, D width.
PAPER = 244  # grey level of what is left out


def foreground(patches: np.ndarray, threshold: float = 0.0) -> np.ndarray:
    """Patches [M, h, w, D] of one kind of object -> bool [M, h, w]: component 1 above `threshold`.

    One PCA over all images (arXiv:2304.07193, sec. 7.6), as the evaluator `foreground` measures it:
    positive skewness puts the rarer side, mostly the object, on top. threshold: in standard
    deviations of the component.
    """
    first = first_component(patches)
    return first > threshold * first.std()


def foreground_map(patches: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Parts of the foreground: a second PCA on it alone, uint8 [M, h, w, 3]; the rest is black.

    mask: bool [M, h, w]. Its three components run from the darkest to the brightest value each
    (arXiv:2304.07193, sec. 7.6): equal parts get equal colours in all images.
    """
    coloured = np.zeros((*mask.shape, 3), np.uint8)
    if mask.any():
        scores = principal(patches[mask], 3)
        low, high = scores.min(axis=0), scores.max(axis=0)
        share = (scores - low[None, :]) / np.where(high > low, high - low, 1.0)[None, :]
        coloured[mask] = np.round(255 * share).astype(np.uint8)
    return coloured


def cut_out(images: np.ndarray, mask: np.ndarray, keep: float = 0.0) -> np.ndarray:
    """Images uint8 [M, S, S, 3] with only their mask left: uint8, the rest is paper.

    mask: bool or 0 and 1, [M, h, w] of any size, upsampled to the nearest. keep: how much of the
    rest shines through, in grey, from 0 to 1.
    """
    inside = upsample(np.asarray(mask, bool), *images.shape[1:3])[..., None]
    grey = images.mean(axis=-1, keepdims=True)
    paper = np.round(keep * grey + (1.0 - keep) * PAPER).astype(np.uint8)
    return np.where(inside, images, paper)


def draw_foreground(
    images: np.ndarray, patches: np.ndarray, masks: Mapping[str, np.ndarray], file: Path
) -> None:
    """Rows: photos, what component 1 finds, its parts by a second PCA, the cut-out of each mask.

    images: uint8 [M, S, S, 3]. patches: [M, h, w, D]. masks: {"TokenCut": bool or 0 and 1, [M, H,
    W] of any size}: found by other means; may be empty.
    """
    height, width = images.shape[1:3]
    found = foreground(patches)
    rows = {
        "photo": images,
        "component 1 above 0": cut_out(images, found),
        "parts: PCA of that": upsample(foreground_map(patches, found), height, width),
    }
    rows |= {name: cut_out(images, mask) for name, mask in masks.items()}
    figure, axes = sheet(len(rows), len(images), height / width, side=1)
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        for cell, picture in zip(row, pictures, strict=True):
            show(cell, picture)
        label(row[0], name)
    write(figure, file)
