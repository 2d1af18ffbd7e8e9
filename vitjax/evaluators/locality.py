"""How local attention is: its mean distance (arXiv:2010.11929, app. D.7), and whether it is a
convolution.

M images of S x S pixels, h x h patches of one block, H heads.
"""

import numpy as np
from absl import logging

from vitjax.evaluators.features import Frozen, Inside
from vitjax.ops import locality

EACH = ("network", "layer", "head")


def run(
    train: Frozen | None, validation: Frozen, *, images: int = 128, each: str = "network"
) -> dict[str, float]:
    """Of the first `images` of the sample, means over the heads of all blocks; {} without
    attention, with a line in the log.

    "distance": sum_j A_ij |p_i - p_j| in pixels, mean over queries and images, in ViT's definition;
    "nonlocality": the same in patches of its block (arXiv:2103.10697, eq. 8); "of_uniform": as a
    share of what even attention has on that grid, so that grids compare: 1 is no locality;
    "convolution": R^2 of the weights against one kernel for all places and images
    (ops.locality.convolution_share). Class token and registers are left out as queries and as keys,
    and rows made to sum to 1 again.
    each: "layer" adds the numbers of every block, as "distance_block_00"; "head" also of every
    head, "distance_block_00_head_00", heads of a block in the order of their distance. Needs square
    grids, as square images have.
    """
    del train
    check(images=images, each=each)
    sample = validation.sample
    measured = sample.measure(attended, sample.images[:images])
    if not measured:
        logging.info("evaluators.bias_attention: no number of an encoder without attention")
        return {}
    side = sample.images.shape[1]
    found = {name: heads_of(sums, side) for name, sums in measured.items()}
    numbers = {
        key: float(np.mean([heads[key].mean() for heads in found.values()]))
        for key in next(iter(found.values()))
    }
    for name, heads in found.items():
        for key, values in heads.items():
            if each != "network":
                numbers[f"{key}_{name}"] = float(values.mean())
            if each == "head":
                numbers |= {
                    f"{key}_{name}_head_{i:02d}": float(value) for i, value in enumerate(values)
                }
    return numbers


def check(*, images, each):
    if images < 1:
        raise ValueError(f"evaluators.bias_attention.images={images}: expected at least 1")
    if each not in EACH:
        raise ValueError(
            f"evaluators.bias_attention.each={each!r}: expected one of {', '.join(EACH)}"
        )


def attended(inside: Inside, images) -> dict:
    """{block: ops.locality.summed}; {} without attention."""
    if inside.attention is None:
        return {}
    weights = inside.attention(images, [name for name, _ in inside.attends])
    return {name: locality.summed(weights[name], prefix) for name, prefix in inside.attends}


def heads_of(sums: dict, side: int) -> dict[str, np.ndarray]:
    """What was summed over images of `side` pixels -> the numbers of each head, nearest first."""
    h, w = ((n + 1) // 2 for n in sums["offsets"].shape[2:])
    patches = sums["distance"].mean(axis=0, dtype=np.float64)
    uniform = locality.uniform_distance(h, w)
    order = np.argsort(patches, kind="stable")
    found = {
        "distance": patches * side / h,
        "nonlocality": patches,
        "of_uniform": patches / uniform if uniform else np.ones_like(patches),
        "convolution": locality.convolution_share(sums["squares"], sums["offsets"]),
    }
    return {key: values[order] for key, values in found.items()}
