"""Object discovery by a normalised cut of the graph of patches: TokenCut (arXiv:2202.11539).

No label is used but to measure. M images of S x S pixels, h x w patches, N = h w, D width.
"""

import numpy as np
from scipy.linalg import eigh
from scipy.ndimage import label as components

from vitjax.evaluators.features import Frozen
from vitjax.evaluators.foreground import to_pixels
from vitjax.evaluators.maps import sample_with
from vitjax.evaluators.overlap import UNKNOWN, box, box_iou, iou

WEAK = 1e-5  # weight of the edges that are cut: the graph stays connected
CORNERS = np.ones((3, 3), np.int64)  # pixels that touch at a corner are connected


def run(train: Frozen | None, validation: Frozen, *, tau: float = 0.2) -> dict[str, float]:
    """{"iou", "corloc"} over the images of the sample that show an object (mask above 0).

    iou: the mean over images of discovered and true object, in pixels, unknown ones left out.
    corloc: the share of images whose discovered box has an IoU above 0.5 with that of any object,
    an object being a connected region of one class. Features are the last layer's patches, where
    the paper takes its keys; tau is the cosine above which patches are connected.
    """
    del train
    check(tau=tau)
    sample = sample_with(validation, ("mask",), "tokencut")
    size, (h, w) = sample.mask.shape[1], sample.patches.shape[1:3]
    overlaps, found = [], []
    for patches, mask in zip(sample.patches, sample.mask, strict=True):
        known = mask != UNKNOWN
        inside = known & (mask > 0)
        if not inside.any():
            continue
        region = discover(patches, tau)
        overlaps.append(iou(to_pixels(region, size) & known, inside))
        top, left, bottom, right = box(region)
        guess = (top * size / h, left * size / w, bottom * size / h, right * size / w)
        found.append(max(box_iou(guess, each) for each in boxes(mask)) > 0.5)
    if not found:
        raise ValueError("evaluators.tokencut: the masks show no object; sample more images")
    return {"iou": float(np.mean(overlaps)), "corloc": float(np.mean(found))}


def check(*, tau):
    if not -1 <= tau < 1:
        raise ValueError(f"evaluators.tokencut.tau={tau}: expected a cosine, at least -1, below 1")


def discover(patches: np.ndarray, tau: float) -> np.ndarray:
    """[h, w, D] -> bool [h, w]: the connected patches of the object, at least one.

    The second eigenvector is cut at its mean; the object is the side, and in it the connected
    region (by edges), of the entry of largest magnitude. A map of one patch is all object.
    """
    if patches.shape[:2] == (1, 1):
        return np.ones((1, 1), bool)
    vector = second_eigenvector(affinity(patches.reshape(-1, patches.shape[-1]), tau))
    seed = np.argmax(np.abs(vector))
    side = vector > vector.mean()
    regions, _ = components((side == side[seed]).reshape(patches.shape[:2]))
    return regions == regions.ravel()[seed]


def affinity(rows: np.ndarray, tau: float) -> np.ndarray:
    """[N, D] -> [N, N] float64: 1 where the cosine is above tau, else WEAK."""
    rows = rows.astype(np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.where(rows @ rows.T > tau, 1.0, WEAK)


def second_eigenvector(weights: np.ndarray) -> np.ndarray:
    """v [N] of (D - W) v = lambda D v, D = diag(W 1), with the second smallest lambda.

    By way of the symmetric D^-1/2 (D - W) D^-1/2, whose eigenvector is D^1/2 v.
    """
    root = np.sqrt(weights.sum(axis=1))
    symmetric = np.eye(len(root)) - weights / root[:, None] / root[None, :]
    _, vectors = eigh(symmetric, subset_by_index=(1, 1))
    return vectors[:, 0] / root


def boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The box of each connected region of one class in a mask, uint8 [S, S]."""
    found = []
    for name in np.setdiff1d(mask, (0, UNKNOWN)):
        regions, count = components(mask == name, CORNERS)
        found += [box(regions == each) for each in range(1, count + 1)]
    return found
