"""What becomes of the answers when parts of an image move: shift, shuffle, occlusion, scale.

A readout fitted to train answers for the images of the validation sample, as they are (top1) and
altered. Draws depend on the seed and on the place of the image in its split.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from vitjax.evaluators import readout as readouts
from vitjax.evaluators.features import Frozen
from vitjax.ops import alterations

PADDINGS = ("reflect", "edge", "wrap")


def shift(
    train: Frozen,
    validation: Frozen,
    *,
    share: float = 0.125,
    draws: int = 4,
    padding: str = "reflect",
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "top1_shifted", "consistency", "cosine"} under moves of whole pixels.

    Every image is moved `draws` times, down and right by up to `share` of its side either way.
    consistency: how often the answers to two moves of an image agree (arXiv:1904.11486), over
    all pairs of moves; cosine: mean similarity of a moved image's features to the image's.
    The paper crops a larger image instead; here what moves in is `padding`: "reflect", "edge"
    or "wrap".
    """
    check_shift(share=share, draws=draws, padding=padding, readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "shift")
    predict = readouts.readout(train, readout, k)
    reach = int(share * sample.images.shape[1])
    offsets = np.stack(
        [rng.integers(-reach, reach + 1, (draws, 2)) for rng in generators(sample.rows, seed)]
    )
    answers, cosines = [], []
    for draw in range(draws):
        moved = alterations.translate(sample.images, offsets[:, draw], padding)
        pooled = sample.encode(moved)[0]
        answers.append(predict(pooled))
        cosines.append(cosine(pooled, sample.pooled).mean())
    return {
        "top1": accuracy(predict(sample.pooled), sample.label),
        "top1_shifted": accuracy(np.stack(answers), sample.label[None]),
        "consistency": float(
            np.mean([accuracy(a, b) for a, b in itertools.combinations(answers, 2)])
        ),
        "cosine": float(np.mean(cosines)),
    }


def check_shift(*, share, draws, padding, readout, k, seed):
    if not 0 <= share < 1:
        raise ValueError(f"evaluators.shift.share={share}: expected at least 0 and below 1")
    if draws < 2:
        raise ValueError(f"evaluators.shift.draws={draws}: expected at least 2")
    if padding not in PADDINGS:
        raise ValueError(f"evaluators.shift.padding={padding!r}: expected one of {list(PADDINGS)}")
    check_common("shift", readout, k, seed)


def shuffle(
    train: Frozen,
    validation: Frozen,
    *,
    grids: Sequence[int] = (2, 4, 8),
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "top1_<g>x<g>"} for each grid g: the g x g cells of every image in random order.

    What is still answered rests on texture and small parts, not on the whole (arXiv:2105.10497,
    sec. 3.3).
    """
    check_shuffle(grids=grids, readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "shuffle")
    side = sample.images.shape[1]
    if max(grids) > side:
        raise ValueError(
            f"evaluators.shuffle.grids={grids!r}: expected at most {side}, the side of the images"
        )
    predict = readouts.readout(train, readout, k)
    result = {"top1": accuracy(predict(sample.pooled), sample.label)}
    for grid in grids:
        orders = np.stack([rng.permutation(grid**2) for rng in generators(sample.rows, seed, grid)])
        images = alterations.shuffle(sample.images, grid, orders)
        result[f"top1_{grid}x{grid}"] = accuracy(predict(sample.encode(images)[0]), sample.label)
    return result


def check_shuffle(*, grids, readout, k, seed):
    if not isinstance(grids, Sequence) or not grids or min(grids) < 1:
        raise ValueError(f"evaluators.shuffle.grids={grids!r}: expected a list of at least 1")
    check_common("shuffle", readout, k, seed)


def occlusion(
    train: Frozen,
    validation: Frozen,
    *,
    shares: Sequence[float] = (0.25, 0.5, 0.75),
    grid: int = 14,
    readout: str = "linear",
    k: int = 20,
    seed: int = 0,
) -> dict[str, float]:
    """{"top1", "top1_<share>"}: a share of the grid x grid cells of every image is black.

    Random PatchDrop of arXiv:2105.10497, sec. 3.1. The cells of a lower share are among those of a
    higher one.
    """
    check_occlusion(shares=shares, grid=grid, readout=readout, k=k, seed=seed)
    sample = readouts.look(validation, "occlusion")
    predict = readouts.readout(train, readout, k)
    ranks = np.stack([rng.permutation(grid**2) for rng in generators(sample.rows, seed)])
    ranks = ranks.reshape(-1, grid, grid)
    result = {"top1": accuracy(predict(sample.pooled), sample.label)}
    for share in shares:
        images = alterations.occlude(sample.images, ranks < round(share * grid**2))
        result[f"top1_{share:g}"] = accuracy(predict(sample.encode(images)[0]), sample.label)
    return result


def check_occlusion(*, shares, grid, readout, k, seed):
    if not isinstance(shares, Sequence) or not shares or not 0 <= min(shares) <= max(shares) <= 1:
        raise ValueError(
            f"evaluators.occlusion.shares={shares!r}: expected a list of shares from 0 to 1"
        )
    if grid < 1:
        raise ValueError(f"evaluators.occlusion.grid={grid}: expected at least 1")
    check_common("occlusion", readout, k, seed)


def scale(
    train: Frozen,
    validation: Frozen,
    *,
    shares: Sequence[float] = (0.5, 0.25, 0.125),
    readout: str = "linear",
    k: int = 20,
) -> dict[str, float]:
    """{"top1", "top1_<share>"}: every image shrunk to a share of its side, on its mean colour.

    How small an object may be. Nothing is drawn: the image stands in the middle.
    """
    check_scale(shares=shares, readout=readout, k=k)
    sample = readouts.look(validation, "scale")
    predict = readouts.readout(train, readout, k)
    result = {"top1": accuracy(predict(sample.pooled), sample.label)}
    for share in shares:
        pooled = sample.encode(alterations.shrink(sample.images, share))[0]
        result[f"top1_{share:g}"] = accuracy(predict(pooled), sample.label)
    return result


def check_scale(*, shares, readout, k):
    if not isinstance(shares, Sequence) or not shares or not 0 < min(shares) <= max(shares) <= 1:
        raise ValueError(
            f"evaluators.scale.shares={shares!r}: expected a list of shares above 0, to 1"
        )
    readouts.check("scale", readout=readout, k=k)


def check_common(name, readout, k, seed):
    readouts.check(name, readout=readout, k=k)
    if seed < 0:
        raise ValueError(f"evaluators.{name}.seed={seed}: expected at least 0")


def generators(rows, seed, *more):
    """A generator of random numbers for each image, by its place in the split."""
    return (np.random.default_rng((seed, int(row), *more)) for row in rows)


def accuracy(answers, label) -> float:
    return float(np.mean(answers == label))


def cosine(a, b):
    """Similarity of rows [n, D] and rows [n, D]: [n]; that of a row of zeros is 0."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1, dtype=np.float64) / np.maximum(norms, 1e-12)
