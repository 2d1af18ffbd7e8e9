"""Which images the features hold to be alike: each query beside its nearest."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitjax.pictures.sheet import fit_text, sheet, show, write

# Q queries, N images to search, D width, k neighbours.


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rows [n, D] and [m, D] -> float32 [n, m]; a row of zeros is like nothing."""
    unit = [
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (a, b)
    ]
    return (unit[0] @ unit[1].T).astype(np.float32)


def nearest(
    queries: np.ndarray, bank: np.ndarray, k: int = 8, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the bank [N, D] nearest to each query [Q, D]: int64 [Q, k], and their cosine [Q, k].

    own: int [Q], where each query stands in the bank: it is not its own neighbour. k is at most
    what there is. Ties go to the earlier row.
    """
    similarity = cosine(queries, bank)
    k = min(k, len(bank) - (own is not None))
    if own is not None:
        similarity[np.arange(len(queries)), own] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def draw_neighbours(
    queries: np.ndarray,
    neighbours: np.ndarray,
    similarity: np.ndarray,
    file: Path,
    *,
    names: Sequence[str] | None = None,
    neighbour_names: Sequence[Sequence[str]] | None = None,
) -> None:
    """One row per query: the query, then its neighbours, nearest first, with their cosine.

    queries: uint8 [Q, S, S, 3]. neighbours: uint8 [Q, k, S, S, 3]. similarity: [Q, k]. names [Q]
    and neighbour_names [Q][k]: classes; a neighbour of another class than its query has a red
    frame, bold type and a cross before its name. None where classes are unknown.
    """
    height, width = queries.shape[1:3]
    count = neighbours.shape[1]
    figure, axes = sheet(len(queries), 1 + count, height / width, lines=2)
    for i, row in enumerate(axes):
        show(row[0], queries[i], "query\n" + ("" if names is None else fit_text(names[i], lines=1)))
        row[0].title.set_fontweight("bold")
        for j, cell in enumerate(row[1:]):
            value = f"{similarity[i, j]:.3f}"
            if neighbour_names is None:
                show(cell, neighbours[i, j], value)
                continue
            name = neighbour_names[i][j]
            wrong = name != names[i]
            name = fit_text(("× " if wrong else "") + name, 20, 1)
            show(cell, neighbours[i, j], f"{name}\n{value}", wrong=wrong)
    write(figure, file)
