"""PCA maps of patch features, the same on every run: nothing about a sign or an order is chosen.

The rule of CAPI (arXiv:2502.08769, its eval_visualizations.py): principal components, whitened,
each turned so that its skewness is positive; the first three are red, green and blue.
"""

from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from vitjax.pictures.sheet import label, sheet, show, upsample, write

# M images of S x S pixels, h x w grid of patches, D width, K components.
JOINT, SEPARATE = 10, 6  # components
LIMIT = 2.3  # standard deviations: darkest and brightest


def pca_map(patches: np.ndarray, joint: bool = True) -> np.ndarray:
    """patches [M, h, w, D] without prefix tokens -> colours uint8 [M, h, w, 3].

    joint: one PCA over all patches of all images, so that a colour means the same in all of them;
    otherwise one PCA for each image.
    """
    return colours(components(patches, joint))


def components(patches: np.ndarray, joint: bool = True) -> np.ndarray:
    """Whitened components float64 [M, h, w, K], strongest first: mean 0 and standard deviation 1.

    K is 10 when joint, 6 otherwise. A component that the features do not have is 0.
    """
    *grid, width = patches.shape
    count = JOINT if joint else SEPARATE
    parts = [patches] if joint else patches
    scores = [principal(part.reshape(-1, width), count) for part in parts]
    scale = [part.std(axis=0, keepdims=True) for part in scores]
    white = [s / np.where(std > 0, std, 1.0) for s, std in zip(scores, scale, strict=True)]
    return np.concatenate(white).reshape(*grid, count)


def principal(rows: np.ndarray, count: int) -> np.ndarray:
    """Coordinates of rows [n, D] along their first principal axes: float64 [n, count].

    Each is turned to positive skewness; where that is 0 (below 1e-6), so that its largest loading
    is positive. Axes that the rows do not span (within 1e-6 of their size) give 0.
    """
    rows = np.asarray(rows, np.float64)
    n, width = rows.shape
    scores = np.zeros((n, count))
    least = 1e-6 * np.sqrt(np.mean(rows**2) * width)
    if not rows.std(axis=0).max() > least:
        return scores
    kept = min(count, n - 1, width)
    # Not "auto", which turns to a randomised solver. The covariance is the cheaper where n > D.
    solver = PCA(kept, svd_solver="covariance_eigh" if n > width else "full")
    found = solver.fit_transform(rows)
    spread = found.std(axis=0)
    real = spread > least
    skewness = np.mean((found / np.where(real, spread, 1.0)[None, :]) ** 3, axis=0)
    axes = solver.components_
    loading = np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)[:, 0]
    turn = np.sign(np.where(np.abs(skewness) < 1e-6, loading, skewness))
    scores[:, :kept] = np.where(real[None, :], found * turn[None, :], 0.0)
    return scores


def colours(white: np.ndarray) -> np.ndarray:
    """Whitened components [..., K >= 3] -> uint8 [..., 3]: 2.3 deviations to either side."""
    share = (white[..., :3] + LIMIT) / (2 * LIMIT)
    return np.round(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def draw_components(images: np.ndarray, white: np.ndarray, file: Path, count: int = 6) -> None:
    """One row per image: photo, colours of the first three components, then `count` components.

    images: uint8 [M, S, S, 3]. white: [M, h, w, K], see `components`. Blue is -2.3 and red +2.3
    deviations.
    """
    height, width = images.shape[1:3]
    count = min(count, white.shape[-1])
    figure, axes = sheet(len(images), 2 + count, height / width, head=2, side=1)
    whole = upsample(white, height, width)
    for row, image, part in zip(axes, images, whole, strict=True):
        show(row[0], image)
        show(row[1], colours(part), interpolation="nearest")
        for k in range(count):
            settings = {"cmap": "RdBu_r", "vmin": -LIMIT, "vmax": LIMIT}
            show(row[2 + k], part[..., k], interpolation="nearest", **settings)
    names = ["photo", "components 1, 2, 3\nas red, green, blue"]
    names += [f"component {k + 1}" for k in range(count)]
    for cell, name in zip(axes[0], names, strict=True):
        cell.set_title(name, fontsize=8, pad=3)
    label(axes[0, 0], f"{white.shape[1]} × {white.shape[2]} patches")
    write(figure, file)
