"""How well label maps, regions and boxes agree: counts of pixels, in NumPy, exact.

A label map holds classes from 0; UNKNOWN marks what nobody labelled, and counts nowhere.
"""

import numpy as np

UNKNOWN = 255


def require_two_classes(masks: np.ndarray, evaluator: str) -> None:
    """Raise ValueError where masks uint8 [M, S, S] know one class: any answer would be right."""
    seen = np.setdiff1d(masks, UNKNOWN)
    if len(seen) < 2:
        raise ValueError(
            f"evaluators.{evaluator}: the train sample's masks know the classes {seen.tolist()} "
            f"only, expected at least two ({UNKNOWN} means unknown); mend the masks or sample more "
            "images"
        )


def confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """int64 [classes, classes + 1]: pixels of each true class by the class they were given.

    true, predicted: uint8 [M, ...]. Pixels whose true class is UNKNOWN are left out; a prediction
    of UNKNOWN stands in the last column: it is wrong, and no class's mistake.
    """
    total = np.zeros(classes * (classes + 1), np.int64)
    for label, given in zip(true, predicted, strict=True):  # an image at a time: int64 is large
        known = label != UNKNOWN
        column = np.where(given == UNKNOWN, classes, given)[known].astype(np.int64)
        cells = (classes + 1) * label[known].astype(np.int64) + column
        total += np.bincount(cells, minlength=len(total))
    return total.reshape(classes, classes + 1)


def miou(counts: np.ndarray) -> float:
    """Mean over classes of intersection / union, accumulated over the whole set.

    counts: of confusion. A class that is neither there nor predicted is skipped; NaN where all are.
    """
    both = np.diagonal(counts)
    union = counts.sum(axis=1) + counts[:, :-1].sum(axis=0) - both
    seen = union > 0
    return float(np.mean(both[seen] / union[seen])) if seen.any() else float("nan")


def pixel_accuracy(counts: np.ndarray) -> float:
    """Share of the labelled pixels that got their class. NaN where there are none."""
    total = counts.sum()
    return float(np.trace(counts) / total) if total else float("nan")


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two regions, bool [...]; NaN where both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else float("nan")


def box(region: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a region, bool [height, width]; the last two are excluded."""
    down, across = (np.flatnonzero(region.any(axis=dim)) for dim in (1, 0))
    return int(down[0]), int(across[0]), int(down[-1]) + 1, int(across[-1]) + 1


def box_iou(first: tuple, second: tuple) -> float:
    """Intersection over union of two boxes (top, left, bottom, right), in any one unit."""
    height = min(first[2], second[2]) - max(first[0], second[0])
    width = min(first[3], second[3]) - max(first[1], second[1])
    both = max(height, 0) * max(width, 0)
    areas = [(bottom - top) * (right - left) for top, left, bottom, right in (first, second)]
    return both / (sum(areas) - both)
