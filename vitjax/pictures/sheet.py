"""Sheets of pictures: one cell for each, text that fits its cell, and how they are written."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitjax.evaluators.maps import nearest

INK = "#1f2933"
WRONG = "#b3001b"
DPI = 144  # of the files
CELL = 1.55  # inches, the width of a cell
PAD = 0.03  # inches around a cell
LINE = 0.16  # inches, a line of text

# M images of S x S pixels, h x w grid of patches.


def upsample(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest: [M, h, w, ...] -> [M, height, width, ...]; a pixel takes the patch of its centre."""
    rows, columns = nearest(height, maps.shape[1]), nearest(width, maps.shape[2])
    return maps[:, rows[:, None], columns[None, :]]


def fit_text(text: str, width: int = 20, lines: int = 2) -> str:
    """A name as text of at most `lines` lines of `width` characters, cut by a mark of omission.

    Underscores become spaces; a dollar sign is not the start of mathematics.
    """
    text = text.replace("_", " ")
    kept = textwrap.wrap(text, width, max_lines=lines, placeholder=" …") or [""]
    return "\n".join(kept).replace("$", r"\$")


def sheet(rows: int, columns: int, aspect: float = 1.0, *, lines: int = 0, head: int = 0, side=0):
    """An empty figure and its axes [rows, columns].

    aspect: height of a picture over its width. Room for lines of text: `lines` above each row,
    `head` above the first, `side` at the left.
    """
    width = columns * (CELL + 2 * PAD) + LINE * side
    height = rows * (CELL * aspect + 2 * PAD + LINE * lines) + LINE * head
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=PAD, h_pad=PAD, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, columns, squeeze=False)
    for cell in axes.flat:
        cell.set_axis_off()
    return figure, axes


def show(axes: Axes, image: np.ndarray, title: str = "", *, wrong: bool = False, **settings):
    """Put a picture in a cell. settings: of Axes.imshow. wrong: bold red title, thick red frame."""
    axes.imshow(image, **settings)
    colour, weight = (WRONG, "bold") if wrong else (INK, "normal")
    axes.set_title(title, fontsize=8, color=colour, fontweight=weight, pad=3, linespacing=1.15)
    if wrong:
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=WRONG, linewidth=3)


def show_title(figure: Figure, text: str) -> None:
    figure.suptitle(text.replace("$", r"\$"), fontsize=9.5, color=INK)


def write(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI, facecolor="white")


def side_by_side(
    images: np.ndarray, maps: Mapping[str, np.ndarray], file: Path, title: str = ""
) -> None:
    """Photos in a row, and below each what every encoder makes of it: a row per encoder.

    images: uint8 [M, S, S, 3]. maps: {name: uint8 [M, h, w, 3]}, each with its own grid; names and
    grids stand at the left.
    """
    height, width = images.shape[1:3]
    figure, axes = sheet(1 + len(maps), len(images), height / width, head=2 if title else 0, side=3)
    for cell, image in zip(axes[0], images, strict=True):
        show(cell, image)
    label(axes[0, 0], "photo")
    for row, (name, coloured) in zip(axes[1:], maps.items(), strict=True):
        for cell, image in zip(row, upsample(coloured, height, width), strict=True):
            show(cell, image, interpolation="nearest")
        label(row[0], f"{fit_text(name, 22)}\n{coloured.shape[1]} × {coloured.shape[2]} patches")
    if title:
        show_title(figure, title)
    write(figure, file)


def label(axes: Axes, text: str) -> None:
    """A line of text up the left side of a cell."""
    axes.text(
        *(-0.05, 0.5, text),
        transform=axes.transAxes,
        rotation=90,
        ha="right",
        va="center",
        fontsize=8,
        color=INK,
    )
