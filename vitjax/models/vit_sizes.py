"""Sizes of Vision Transformers, and how a variant is written."""

import re
from typing import NamedTuple

from vitjax.lookup import lookup
from vitjax.models.layers import check_counts


class Size(NamedTuple):
    width: int
    depth: int
    mlp: int
    heads: int


# Table 2 of arXiv:2106.04560; M from arXiv:2205.01580's code, So400m from arXiv:2305.13035, e from
# arXiv:2209.06794; the -opt shapes from big_vision, mu is its size for tests. dino-g is DINOv2's
# giant (arXiv:2304.07193, table 17); S+, H+, 7B are DINOv3's (arXiv:2508.10104). These four have
# activation="swiglu".
SIZES = {
    "mu": Size(32, 1, 128, 2),
    "Ti": Size(192, 12, 768, 3),
    "S": Size(384, 12, 1536, 6),
    "S+": Size(384, 12, 1536, 6),
    "M": Size(512, 12, 2048, 8),
    "B": Size(768, 12, 3072, 12),
    "L": Size(1024, 24, 4096, 16),
    "So400m": Size(1152, 27, 4304, 16),
    "H": Size(1280, 32, 5120, 16),
    "H+": Size(1280, 32, 5120, 20),
    "g": Size(1408, 40, 6144, 16),
    "g-opt": Size(1536, 40, 6144, 16),
    "dino-g": Size(1536, 40, 4096, 24),
    "G": Size(1664, 48, 8192, 16),
    "G-opt": Size(1536, 48, 8192, 16),
    "e": Size(1792, 56, 15360, 16),
    "7B": Size(4096, 40, 8192, 32),
}
# Blocks of the ResNet before a hybrid, by the pixels of a patch (arXiv:2010.11929, sec. 3.1, and
# arXiv:2106.10270): on a grid of 16 pixels the third stage has the fourth's blocks too.
STEMS = {"R26": {32: (2, 2, 2, 2)}, "R50": {16: (3, 4, 9), 32: (3, 4, 6, 3)}}


class Variant(NamedTuple):
    """stem: blocks per stage of the ResNet before the transformer, None without."""

    size: str
    patch: int
    stem: tuple[int, ...] | None


def parse(variant: str) -> Variant:
    """ "B/16", or "R50+B/16" with a ResNet before it. Raises ValueError."""
    match = re.fullmatch(r"(?:(R\d+)\+)?([A-Za-z0-9+-]+)/([1-9]\d*)", variant)
    if not match:
        raise ValueError(
            f"encoder.variant is {variant!r}; expected a size and a patch side in pixels, as S/16"
        )
    size, patch = match[2], int(match[3])
    if match[1] is None:
        return Variant(size, patch, None)
    grids = lookup(STEMS, match[1], "the stem in encoder.variant")
    return Variant(size, patch, lookup(grids, patch, f"the patch after {match[1]}+{size}"))


def check_size(size) -> None:
    """Raise ValueError unless all fields are whole numbers above 0 and heads divide the width."""
    check_counts(size)
    if size.width % size.heads:
        raise ValueError(
            f"encoder.width {size.width} is not a multiple of encoder.heads {size.heads}"
        )
