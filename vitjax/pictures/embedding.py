"""A split as a map in the plane: images that the features hold to be alike stand together."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from vitjax.pictures.pca import principal
from vitjax.pictures.sheet import INK, fit_text, show_title, write

# N images of S x S pixels, D width.

# Eight colours that stay apart for most kinds of colour blindness (Okabe and Ito), darkened for
# white paper, and seven marks: 56 classes before a pair comes again.
COLOURS = ("#0072b2", "#c44e00", "#00805f", "#a6437f", "#8a6d00", "#12a4b4", "#6a4c93", "#444444")
MARKS = "os^DvPX"
NAMED = 24  # classes that get a colour and a name; the rest is grey
OTHER = "#a9b1b8"


def embed(pooled: np.ndarray, perplexity: float = 30.0) -> np.ndarray:
    """Features [N, D] -> float32 [N, 2]: unit length, PCA to 50, t-SNE started from PCA.

    Equal on every run, whatever the number of threads. perplexity: about how many neighbours
    count; at most a third of N. Fewer than 4 images are placed by PCA alone.
    """
    rows = np.asarray(pooled, np.float64)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows = principal(rows, 50)
    start = rows[:, :2] / max(float(rows[:, 0].std()), 1e-12)
    if len(rows) < 4:
        return start.astype(np.float32)
    solver = TSNE(  # a start of this size is scikit-learn's own for init="pca", less its choices
        init=(1e-4 * start).astype(np.float32),
        perplexity=min(perplexity, (len(rows) - 1) / 3),
        random_state=0,
    )
    with threadpool_limits(1):  # threads add up in any order, and t-SNE makes much of a last digit
        return solver.fit_transform(rows.astype(np.float32))


def draw_embedding(
    points: np.ndarray, file: Path, *, classes: Sequence[str] | None = None, title: str = ""
) -> None:
    """A mark for each image. points: [N, 2]. classes: N names.

    The 24 classes with most images have a colour and a mark of their own, and their name at the
    middle of their points; the others are grey dots.
    """
    figure = Figure(figsize=(7.5, 7.5), layout="constrained")
    axes = figure.subplots()
    named = [] if classes is None else largest(classes)
    classes = np.asarray([""] * len(points) if classes is None else list(classes))
    rest = ~np.isin(classes, named)
    axes.scatter(*points[rest].T, s=18, c=OTHER, marker=".", linewidths=0)
    size = float(np.clip(6000 / len(points), 16, 42))
    for i, name in enumerate(named):
        own = points[classes == name]
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        axes.scatter(*own.T, s=size, c=colour, marker=mark, alpha=0.85, ec="white", lw=0.4)
    for i, name in enumerate(named):
        middle = np.median(points[classes == name], axis=0)
        axes.text(
            *middle,
            fit_text(name),
            color=COLOURS[i % len(COLOURS)],
            fontsize=8.5,
            fontweight="bold",
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    finish(figure, axes, points, title, file)


def largest(classes: Sequence[str]) -> list[str]:
    """Classes of at least two images, most images first, then by name: at most 24."""
    counts = sorted(Counter(classes).items(), key=lambda item: (-item[1], item[0]))
    return [name for name, images in counts if images > 1][:NAMED]


def draw_thumbnails(points: np.ndarray, images: np.ndarray, file: Path, *, title: str = "") -> None:
    """The images themselves at their places. points: [N, 2]. images: uint8 [N, S, S, 3].

    They are the smaller the more there are. One that would hide another is a dot.
    """
    figure = Figure(figsize=(9.0, 9.0), layout="constrained")
    axes = figure.subplots()
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max() or 1.0) * np.clip(0.8 / np.sqrt(len(points)), 0.025, 0.12)
    half = side / 2
    shown = apart(points, 0.75 * side)
    axes.scatter(*points[~shown].T, s=14, c=OTHER, marker=".", linewidths=0, zorder=1)
    for (x, y), image in zip(points[shown], images[shown], strict=True):
        axes.imshow(image, extent=(x - half, x + half, y - half, y + half), zorder=2)
    finish(figure, axes, points, title, file, half)


def apart(points: np.ndarray, side: float) -> np.ndarray:
    """bool [N]: points kept one by one, unless a square of this side would cover one before."""
    kept = np.zeros(len(points), bool)
    for i, point in enumerate(points):
        kept[i] = not (np.abs(points[kept] - point[None, :]).max(axis=1) < side).any()
    return kept


def finish(figure, axes, points, title, file, margin=0.0):
    """Equal scales and no ticks: only nearness means anything in such a map."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = margin + 0.03 * (high - low).max() + 1e-6
    axes.set(
        xlim=(low[0] - room, high[0] + room),
        ylim=(low[1] - room, high[1] + room),
        xticks=[],
        yticks=[],
        aspect="equal",
    )
    axes.spines[:].set(color="#d5dade")
    axes.tick_params(colors=INK)
    if title:
        show_title(figure, title)
    write(figure, file)
