"""From the numbers in a file to a ViT's settings, and back."""

from collections.abc import Mapping
from typing import NamedTuple

from absl import logging

from vitjax.interop.layout import Spec, blocks_of
from vitjax.interop.rules import Shape
from vitjax.models.vit_sizes import SIZES, STEMS, Size, parse


class Stem(NamedTuple):
    """A ResNet before a ViT: its name, and the pixels of a patch after it."""

    name: str
    patch: int


class VitShape(NamedTuple):
    """All numbers of a ViT, from its settings."""

    width: int
    depth: int
    mlp: int
    heads: int
    patch: int
    stem: tuple[int, ...] | None


def shape_of(spec: Spec) -> VitShape:
    settings = spec.settings()
    variant = parse(settings["variant"])
    numbers = SIZES[variant.size]._asdict()
    given = {key: settings[key] for key in numbers if settings[key] is not None}
    return VitShape(**(numbers | given), patch=variant.patch, stem=variant.stem)


def encoder_of(
    width: int, depth: int, mlp: int, patch: int, stem: Stem | None, settings: Mapping
) -> dict:
    """The section of a config. The number of heads is in no shape: it is the published one for a
    published size, else heads are 64 wide, else "heads" is None and has to be given."""
    before = f"{stem.name}+" if stem else ""
    gated = ("dino-g", "S+", "H+", "7B")
    swiglu = settings["activation"] == "swiglu"
    for name, size in SIZES.items():
        if (width, depth, mlp) == (size.width, size.depth, size.mlp) and swiglu == (name in gated):
            return {"name": "vit", "variant": f"{before}{name}/{patch}"} | dict(settings)
    heads = width // 64 if width % 64 == 0 else None
    if heads is not None:
        logging.warning(
            "no tensor tells the number of heads, and the size is no published one: taken as "
            "%d of 64; say --set encoder.heads=N where that is wrong",
            heads,
        )
    size = Size(width, depth, mlp, heads)
    return {"name": "vit", "variant": f"{before}S/{patch}"} | size._asdict() | dict(settings)


def stem_variant(shapes: Mapping[str, Shape], backbone: str, channels: int) -> Stem | None:
    """The ResNet whose tensors begin with `backbone`; None without. Raises ValueError."""
    blocks, stage = [], 0
    while f"{backbone}stages.{stage}.blocks.0.conv1.weight" in shapes:
        blocks.append(blocks_of(shapes, f"{backbone}stages.{stage}.blocks.{{}}.conv1.weight"))
        stage += 1
    if not blocks:
        return None
    return stem_of(tuple(blocks))


def stem_of(blocks: tuple[int, ...]) -> Stem:
    """The stem with these blocks in its stages. Raises ValueError."""
    for name, grids in STEMS.items():
        for patch, known in grids.items():
            if known == blocks:
                return Stem(name, patch)
    raise ValueError(f"a ResNet with blocks {blocks} before a ViT: expected those of {STEMS}")
