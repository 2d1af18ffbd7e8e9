"""Does the first principal component of the patches separate objects from their background?

As in the pictures of DINOv2 (arXiv:2304.07193), with numbers and no choice of sign by eye. No label
is used but to measure.

M images of S x S pixels, h x w patches, D width.
"""

import numpy as np
from scipy.stats import skew
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from vitjax.evaluators.features import Frozen
from vitjax.evaluators.maps import nearest, sample_with
from vitjax.evaluators.overlap import UNKNOWN, iou


def run(train: Frozen | None, validation: Frozen) -> dict[str, float]:
    """{"iou", "auroc"} of the first component of all patches of the sample, in float64.

    iou: the patches above 0 against the object (mask above 0), in pixels, of each image that shows
    one, then their mean. auroc: the share of pairs of an object and a background pixel, of any
    images, that the component puts in order, or in reverse order if that is more: sign-free, so at
    least 0.5. Unknown pixels are left out.
    """
    del train
    sample = sample_with(validation, ("mask",), "foreground")
    component = first_component(sample.patches)
    known, inside = sample.mask != UNKNOWN, (sample.mask != UNKNOWN) & (sample.mask > 0)
    shows = inside.any(axis=(1, 2))
    if not shows.any() or (inside == known).all():
        raise ValueError(
            "evaluators.foreground: the masks show no object, or nothing else; sample more images"
        )
    overlaps = [
        iou(to_pixels(component[i] > 0, sample.mask.shape[1]) & known[i], inside[i])
        for i in np.flatnonzero(shows)
    ]
    return {"iou": float(np.mean(overlaps)), "auroc": auroc(component, inside, known & ~inside)}


def first_component(patches: np.ndarray) -> np.ndarray:
    """[M, h, w, D] -> [M, h, w] float64: the first principal component of all patches.

    Its skewness is positive; where there is none, its loading of the largest magnitude is.
    """
    rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
    with np.errstate(invalid="ignore"):  # equal features: a share of no variance, not read here
        solver = PCA(n_components=1, svd_solver="covariance_eigh").fit(rows)
    scores, loading = solver.transform(rows)[:, 0], solver.components_[0]
    lean = skew(scores) if np.ptp(scores) else 0.0
    if abs(lean) < 1e-6:  # round-off, not a direction
        lean = loading[np.argmax(np.abs(loading))]
    return (-scores if lean < 0 else scores).reshape(patches.shape[:3])


def to_pixels(patches: np.ndarray, size: int) -> np.ndarray:
    """[h, w] -> [S, S]: each pixel is given what the patch under its centre has."""
    h, w = patches.shape
    return patches[nearest(size, h)][:, nearest(size, w)]


def auroc(component: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> float:
    """component [M, h, w] of pixels inside and outside, bool [M, S, S]: max(a, 1 - a).

    Each patch counts once for every pixel it covers: as if the component were upsampled.
    """
    M, h, w = component.shape
    S = inside.shape[1]
    patch = (nearest(S, h)[:, None] * w + nearest(S, w)[None, :])[None, :, :]
    patch = patch + h * w * np.arange(M)[:, None, None]
    weights = [np.bincount(patch[side], minlength=M * h * w) for side in (inside, outside)]
    area = roc_auc_score(
        np.repeat([1, 0], M * h * w),
        np.tile(component.ravel(), 2),
        sample_weight=np.concatenate(weights),
    )
    return float(max(area, 1 - area))
