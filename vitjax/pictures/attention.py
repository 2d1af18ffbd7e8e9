"""Which patches a query of the last block attends to, head by head, and how softly."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Rectangle

from vitjax.pictures.foreground import cut_out
from vitjax.pictures.sheet import sheet, show, show_title, upsample, write

# B images, H heads, N tokens (prefix + h * w), h x w grid of patches.


class Attended(NamedTuple):
    """What one query takes from each patch. exp(entropy) is the number of keys it takes evenly.

    Keys before the patches (class token) count in the entropy and are not on the map, which sums
    to 1 less their share.
    """

    maps: np.ndarray  # [B, H, h, w]
    entropy: np.ndarray  # [B, H] nats, of the whole row of N keys
    query: str  # who asks, for people
    at: tuple[int, int] | None  # row and column of the patch that asks


def attended(
    weights: np.ndarray, grid: tuple[int, int], prefix: int = 0, query: tuple | None = None
) -> Attended:
    """Weights [B, H, N, N] (`Encoder.attention`) -> what the query takes.

    query: (row, column) of a patch; None for the class token, the first of `prefix` tokens, or
    where there is none for the mean over all patches as queries (then the entropy is the mean of
    theirs: that of the mean map would call two sharp queries a soft one). Raises ValueError where
    grid and prefix do not make N, or the query is not on the grid.
    """
    h, w = grid
    tokens = weights.shape[-1]
    if tokens != prefix + h * w:
        raise ValueError(
            f"attention over {tokens} tokens: expected prefix {prefix} + {h} x {w} patches"
        )
    if query is not None:
        row, column = query
        if not (0 <= row < h and 0 <= column < w):
            raise ValueError(f"query {query}: expected a patch of the grid {h} x {w}")
        at = prefix + row * w + column
        rows, name = weights[:, :, at : at + 1], f"patch in row {row + 1}, column {column + 1}"
    elif prefix:
        rows, name = weights[:, :, :1], "class token"
    else:
        rows, name = weights, "mean over all patches"
    maps = rows.mean(axis=2)[..., prefix:].reshape(*weights.shape[:2], h, w)
    return Attended(maps, entropy(rows).mean(axis=2), name, query)


def entropy(rows: np.ndarray) -> np.ndarray:
    """Of distributions [..., N], in nats: 0 for one key alone, ln N for all alike."""
    rows = np.asarray(rows, np.float64)
    return -np.sum(rows * np.log(np.where(rows > 0, rows, 1.0)), axis=-1)


def mass_mask(maps: np.ndarray, mass: float = 0.6) -> np.ndarray:
    """Maps [..., h, w] -> bool: the fewest patches that hold `mass` of a map (arXiv:2104.14294)."""
    flat = np.asarray(maps, np.float64).reshape(*maps.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    falling = np.take_along_axis(flat, order, axis=-1) / flat.sum(axis=-1, keepdims=True)
    before = np.cumsum(falling, axis=-1) - falling
    mask = np.zeros(flat.shape, bool)
    np.put_along_axis(mask, order, before < mass, axis=-1)
    return mask.reshape(maps.shape)


def draw_attention(
    image: np.ndarray,
    seen: Attended,
    file: Path,
    *,
    which: int = 0,
    mass: float | None = None,
    columns: int = 7,
) -> None:
    """The photo, the mean of the heads, and each head with its entropy and number of keys.

    image: uint8 [S, S, 3]. which: its place in `seen`. mass: draw, instead of the map, the part of
    the photo that holds this share of it (0.6 in DINO). columns: at most. Maps are scaled each to
    its own maximum.
    """
    maps, nats = seen.maps[which], seen.entropy[which]
    height, width = image.shape[:2]
    names = [f"head {i + 1}\n{nat:.2f} nats, {np.exp(nat):.1f} keys" for i, nat in enumerate(nats)]
    names = [f"who asks:\n{seen.query}", f"mean of the\n{len(names)} heads", *names]
    maps = np.concatenate([maps.mean(axis=0, keepdims=True), maps])
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)
    figure, axes = sheet(rows, columns, height / width, lines=2, head=2)
    cells = axes.ravel()
    show(cells[0], image, names[0])
    if mass is None:
        pictures, settings = upsample(maps, height, width), {"cmap": "magma", "vmin": 0.0}
    else:
        pictures = cut_out(np.repeat(image[None], len(maps), 0), mass_mask(maps, mass), keep=0.15)
        settings = {}
    for cell, picture, name in zip(cells[1:], pictures, names[1:], strict=False):
        show(cell, picture, name, interpolation="nearest", **settings)
    if seen.at is not None:
        for cell in cells[: len(names)]:
            outline(cell, seen.at, height / maps.shape[1], width / maps.shape[2])
    what = "each map to its own maximum" if mass is None else f"patches that hold {mass:.0%}"
    show_title(figure, f"Attention of the last block ({what})")
    write(figure, file)


def outline(axes, at, height, width):
    """A frame around a patch, dark in light: it shows on any ground."""
    corner = (at[1] * width - 0.5, at[0] * height - 0.5)
    for colour, line in (("black", 3.0), ("white", 1.2)):
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=colour, lw=line))
