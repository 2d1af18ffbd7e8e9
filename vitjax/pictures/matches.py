"""Parts that two photos share: patches that are each other's nearest, joined by lines."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from vitjax.pictures.neighbours import cosine
from vitjax.pictures.sheet import INK, write

# h x w grid of patches, D width, K matches.


class Matches(NamedTuple):
    """Pairs of patches, most alike first."""

    a: np.ndarray  # [K, 2] int64: row and column in the first photo's grid
    b: np.ndarray  # [K, 2] int64: in the second's
    similarity: np.ndarray  # [K] cosine
    grids: tuple[tuple[int, int], tuple[int, int]]  # patches of each photo, h and w


def mutual_matches(
    a: np.ndarray,
    b: np.ndarray,
    top: int = 20,
    masks: tuple[np.ndarray, np.ndarray] | None = None,
) -> Matches:
    """Mutual nearest neighbours by cosine among patches [h, w, D] of two photos, the `top` best.

    masks: two bool [h, w]; only patches inside are matched. Ties go to the earlier patch.
    """
    grids = (a.shape[:2], b.shape[:2])
    masks = [np.ones(grid, bool) for grid in grids] if masks is None else masks
    places = [np.argwhere(mask) for mask in masks]
    if not all(len(place) for place in places):
        empty = np.zeros((0, 2), np.int64)
        return Matches(empty, empty, np.zeros(0), grids)
    similarity = cosine(a[masks[0]], b[masks[1]])
    to_b, to_a = similarity.argmax(axis=1), similarity.argmax(axis=0)
    here = np.flatnonzero(to_a[to_b] == np.arange(len(to_b)))
    values = similarity[here, to_b[here]]
    best = np.argsort(-values, kind="stable")[:top]
    here = here[best]
    return Matches(places[0][here], places[1][to_b[here]], values[best], grids)


def angle_colours(matches: Matches) -> np.ndarray:
    """Hue by the direction of the first photo's patch from that photo's centre: uint8 [K, 3]."""
    height, width = matches.grids[0]
    y = (matches.a[:, 0] + 0.5) / height - 0.5
    x = (matches.a[:, 1] + 0.5) / width - 0.5
    hue = np.arctan2(y, x) / (2 * np.pi) % 1.0
    hsv = np.stack([hue, np.full_like(hue, 0.85), np.full_like(hue, 0.95)], axis=-1)
    return np.round(255 * hsv_to_rgb(hsv)).astype(np.uint8)


def draw_matches(
    images: tuple[np.ndarray, np.ndarray], matches: Matches, file: Path, colours=None
) -> None:
    """Two photos side by side, a line and a number at both ends for each match.

    images: two uint8 [S, S, 3] of equal size. colours: uint8 [K, 3], as the PCA map at matches.a;
    `angle_colours` when None. The best match has number 1.
    """
    height, width = images[0].shape[:2]
    gap = width // 12
    figure = Figure(figsize=(8.0, 8.0 * height / (2 * width + gap) + 0.4), layout="constrained")
    axes = figure.subplots()
    for i, image in enumerate(images):
        left = i * (width + gap)
        axes.imshow(image, extent=(left, left + width, height, 0))
    colours = angle_colours(matches) if colours is None else colours
    ends = [
        ((at + 0.5) / np.asarray(grid)[None, :] * np.asarray([height, width])[None, :])
        for at, grid in zip(matches[:2], matches.grids, strict=True)
    ]
    # The best last: it is drawn over the others.
    for k in reversed(range(len(matches.similarity))):
        (y1, x1), (y2, x2) = ends[0][k], ends[1][k]
        colour = colours[k] / 255.0
        x = (x1, x2 + width + gap)
        casing = [Stroke(linewidth=3.0, foreground="white", alpha=0.85), Normal()]
        axes.plot(x, (y1, y2), color=colour, linewidth=1.5, path_effects=casing, zorder=2)
        for at in zip(x, (y1, y2), strict=True):
            number(axes, at, k + 1, colour)
    axes.set(xlim=(-2, 2 * width + gap + 2), ylim=(height + 2, -2))
    axes.set_axis_off()
    axes.set_title(caption(matches), fontsize=9.5, color=INK)
    write(figure, file)


def number(axes, at, text, colour):
    """A disc with a number, dark on light grounds and light on dark ones."""
    dark = colour @ np.asarray([0.299, 0.587, 0.114]) < 0.55
    axes.text(
        *at,
        str(text),
        fontsize=6.5,
        ha="center",
        va="center",
        zorder=3,
        color="white" if dark else "black",
        bbox={"boxstyle": "circle,pad=0.25", "fc": colour, "ec": "white", "lw": 0.8},
    )


def caption(matches: Matches) -> str:
    values = matches.similarity
    if not len(values):
        return "no two patches are each other's nearest"
    return (
        f"{len(values)} pairs of patches that are each other's nearest, "
        f"cosine {values[0]:.2f} to {values[-1]:.2f}"
    )
