"""Whether features move with the image: shifts, rotations and scale, without labels.

M images of S x S pixels, patches [M, h, w, D].
"""

import numpy as np
from absl import logging

from vitjax.evaluators.alterations import PADDINGS, cosine
from vitjax.evaluators.features import Frozen
from vitjax.ops import alterations


def run(
    train: Frozen | None,
    validation: Frozen,
    *,
    cells: int = 1,
    margin: int = 1,
    padding: str = "reflect",
) -> dict[str, float]:
    """|F(T x) - T F(x)| / |F(x)| of the patches F, Frobenius norms over all images of the sample,
    where both sides know the place: 0 is equivariance.

    "shift_error": T moves by whole cells of the map, `cells` of them in each of four directions:
    between cells nothing is defined for a map with a stride. padding: what moves in, as in
    evaluators.shift. margin: cells at the border that are left out on both sides, where zero
    padding shows. "rotation_error": quarter turns, on the same cells. "scale_error": the middle of
    the image at twice its size, cells averaged two by two against the middle of the map.
    "shift_unmoved", "rotation_unmoved", "scale_unmoved": the same with F(x) left where it is, what
    features have that do not move at all; an error says something as far as it is below.
    "rotation_cosine", "scale_cosine": of the pooled features before and after: 1 is invariance.

    What a grid is too small for is left out, with a line in the log: shifts need more than cells +
    2 margin, rotations more than 2 margin, scale multiples of 4 cells; the size of the image has to
    be a multiple of the grid.
    """
    del train
    check(cells=cells, margin=margin, padding=padding)
    sample = validation.sample
    side, F = sample.images.shape[1], sample.patches.astype(np.float64)
    h, w = F.shape[1:3]
    whole = h == w and side % h == 0
    numbers, left_out = {}, []

    turned = [sample.encode(np.rot90(sample.images, k, axes=(1, 2))) for k in (1, 2, 3)]
    inner = (slice(None), *(slice(margin, n - margin) for n in (h, w)))
    if whole and h > 2 * margin and h > 1:
        moved = [np.rot90(F, k, axes=(1, 2))[inner] for k in (1, 2, 3)]
        maps = [patches[inner] for _, patches in turned]
        numbers |= errors("rotation", maps, moved, [F[inner]] * 3)
    else:
        left_out.append("rotation")
    pooled = np.mean([cosine(each, sample.pooled).mean() for each, _ in turned])
    numbers["rotation_cosine"] = float(pooled)

    if whole and h > cells + 2 * margin:
        numbers |= errors("shift", *shifted(sample, F, cells, margin, padding))
    else:
        left_out.append("shift")

    if side % 4 == 0:
        pooled, patches = sample.encode(alterations.enlarge(sample.images))
        numbers["scale_cosine"] = float(cosine(pooled, sample.pooled).mean())
        if whole and h % 4 == 0:
            middle = F[:, h // 4 : h - h // 4, w // 4 : w - w // 4]
            numbers |= errors("scale", [halved(patches)], [middle], [halved(F)])
        else:
            left_out.append("scale")
    if left_out:
        logging.info(
            f"evaluators.bias_equivariance: a map of {h}x{w} cells of {side} pixels is too small, "
            f"or does not divide them, for: {', '.join(left_out)}"
        )
    return numbers


def check(*, cells, margin, padding):
    for key, value, least in (("cells", cells, 1), ("margin", margin, 0)):
        if value < least:
            raise ValueError(
                f"evaluators.bias_equivariance.{key}={value}: expected at least {least}"
            )
    if padding not in PADDINGS:
        raise ValueError(
            f"evaluators.bias_equivariance.padding={padding!r}: expected one of {list(PADDINGS)}"
        )


def shifted(sample, F, cells, margin, padding):
    """Maps of moved images, the map moved, and the map unmoved, of four directions each, where all
    have cells that are `margin` from their border."""
    h = F.shape[1]
    stride = sample.images.shape[1] // h
    found = [], [], []
    for dy, dx in ((cells, 0), (-cells, 0), (0, cells), (0, -cells)):
        offsets = np.full((len(F), 2), (dy * stride, dx * stride))
        images = alterations.translate(sample.images, offsets, padding)
        patches = sample.encode(images)[1]
        to = [slice(margin + max(d, 0), h - margin + min(d, 0)) for d in (dy, dx)]
        from_ = [slice(margin - min(d, 0), h - margin - max(d, 0)) for d in (dy, dx)]
        for each, map in zip(found, (patches[:, *to], F[:, *from_], F[:, *to]), strict=True):
            each.append(map)
    return found


def errors(name, maps, moved, unmoved) -> dict[str, float]:
    """Relative differences to `moved` of the maps, and of what did not move."""

    def norm(arrays):
        return np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays))

    size = max(norm(moved), 1e-300)
    pairs = {"error": maps, "unmoved": unmoved}
    return {
        f"{name}_{key}": float(norm([a - b for a, b in zip(each, moved, strict=True)]) / size)
        for key, each in pairs.items()
    }


def halved(maps):
    """Means of 2 x 2 cells, [M, h, w, D] -> [M, h / 2, w / 2, D]."""
    M, h, w, D = maps.shape
    return maps.reshape(M, h // 2, 2, w // 2, 2, D).mean(axis=(2, 4))
