"""Procedural pictures of ten things made of named parts, with all that is known of each pixel.

Shape tells the class; texture, colour, pose, size, place and background tell nothing of it, unless
texture is told to: so can shape and texture be set against each other. An example is a function of
(seed, split, index), the same pixels on every machine and the same scene at every size.
S side of the image in pixels, K key points, C classes.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np

from vitjax.data.info import Info
from vitjax.data.shapes.figures import FIGURES, PARTS, POINTS
from vitjax.data.shapes.pieces import bounds
from vitjax.data.shapes.scenes import (
    compose,
    draw_ground,
    draw_scrap,
    draw_surface,
    paint_ground,
    part_number,
    rasterise,
)
from vitjax.data.shapes.textures import Draws

SPLITS = ("train", "validation", "test")
TEXTURES = ("random", "class", "conflict")
C = len(FIGURES)
TILT = 25  # degrees to either side
SMALLEST = 4  # pixels of a thing's longer side
# Drawing takes milliseconds: as many examples as fit here are drawn once for all epochs.
KEPT_BYTES = 2**28
KEPT_PER_PIXEL = 9  # bytes: image, mask, part, depth


def open_shapes(
    split,
    *,
    size=32,
    examples=10_000,
    seed=0,
    texture="random",
    scale=(0.35, 0.9),
    distractors=0,
):
    """One split of the procedural data set: images of size x size pixels, as many as asked for.

    split: "train", "validation" or "test"; no two share a draw. texture: "random" tells nothing of
    the class; "class" gives each class a pattern and a hue of its own; "conflict" gives it those
    of another class, the "texture_label". Shapes, poses and backgrounds are the same for all
    three. scale: the longer side of the thing's box, as a share of the image's side, drawn between
    these. distractors: how many scraps lie on the background.
    """
    if split not in SPLITS:
        raise ValueError(
            f"shapes has no split {split!r}, only {', '.join(SPLITS)}: change the split named in "
            f"data"
        )
    whole = {
        **{"size": (size, 8), "examples": (examples, 1)},
        **{"seed": (seed, 0), "distractors": (distractors, 0)},
    }
    for key, (value, least) in whole.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"data.{key}={value!r}: expected a whole number of at least {least}")
    if texture not in TEXTURES:
        raise ValueError(f"data.texture={texture!r}: expected one of {', '.join(TEXTURES)}")
    if len(scale) != 2 or not SMALLEST / size <= scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"data.scale={scale!r}: expected (low, high), {SMALLEST / size:g} <= low <= high <= 1 "
            f"({SMALLEST} pixels or more)"
        )
    return _source(split, size, examples, seed, texture, tuple(scale), distractors)


@functools.lru_cache(maxsize=len(SPLITS))
def _source(*settings):
    """One for all runs of a process: what a sweep's first run has drawn, the next ones find."""
    return ShapesSource(*settings)


@dataclasses.dataclass(frozen=True)
class ShapesSource:
    """See `open_shapes`."""

    split: str
    size: int
    examples: int
    seed: int
    texture: str
    scale: tuple[float, float]
    distractors: int

    drawn: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

    lacking: ClassVar = ()
    annotations: ClassVar = ("mask", "part", "depth", "points")
    parts: ClassVar = PARTS  # part p of a map is parts[p - 1]
    # The last word of a key point's name names its part.
    info: ClassVar = Info("shapes", tuple(f.__name__ for f in FIGURES), "Apache-2.0", POINTS)

    def __len__(self):
        return self.examples

    @property
    def labels(self):
        """int32 [examples]: the classes in turn, so every prefix is balanced."""
        return (np.arange(self.examples) % C).astype(np.int32)

    def key(self, index):
        return f"{self.split}/{index}"

    def __getitem__(self, index):
        """{"image": uint8 [S, S, 3], "label": int, "mask": uint8 [S, S], class + 1 on the thing and
        0 elsewhere, "part": uint8 [S, S], see `parts`, "depth": float32 [S, S] in metres, "points":
        float32 [K, 3], see `info.points`: y and x in pixels, whose centres are at halves, and 1
        where the point is seen, 0 where it is hidden or the thing has none}; where texture tells a
        class also {"texture_label": int}.
        """
        if not 0 <= index < self.examples:
            raise IndexError(f"example {index} of {self.examples}")
        if index in self.drawn:
            return dict(self.drawn[index])
        example = self._draw(index)
        if (len(self.drawn) + 1) * KEPT_PER_PIXEL * self.size**2 <= KEPT_BYTES:
            for value in example.values():
                if isinstance(value, np.ndarray):
                    value.setflags(write=False)
            self.drawn[index] = example
        return dict(example)

    def _draw(self, index):
        label, told = int(index) % C, None
        if self.texture != "random":
            # A conflict brings every ordered pair of classes equally often.
            step = 1 + int(index) // C % (C - 1) if self.texture == "conflict" else 0
            told = (label + step) % C

        def draws(subject):
            return Draws(f"{self.seed}/{self.split}/{index}/{subject}")

        numbers = draws("figure")
        pieces, length = pose(FIGURES[label](numbers), numbers, self.scale, self.size)
        # A thing is a metre long, and a metre at distance 1 as long as the side of the image.
        near = 1 / length
        scraps = [draw_scrap(draws(f"scrap{k}"), self.size) for k in range(self.distractors)]
        ground = draw_ground(draws("ground"), near, scraps)
        surface = draw_surface(draws("surface"), ground.luminance, told)
        layers = rasterise(pieces, surface, self.size)
        colours, far = paint_ground(ground, self.size)
        thing = layers.part > 0
        depth = np.float32(near) - layers.height * np.float32(near / self.size)
        example = {
            "image": compose(layers, pieces, surface, colours, self.size),
            "label": label,
            "mask": np.where(thing, np.uint8(label + 1), np.uint8(0)),
            "part": layers.part,
            "depth": np.where(thing, depth, far),
            "points": key_points(pieces, layers.part),
        }
        return example if told is None else example | {"texture_label": told}


def pose(pieces, draws, scale, side):
    """Mirrors, turns, scales and places a figure.

    Returns its pieces in pixels, and the longer side of their box as a share of the image's.
    """
    along, mirror, length = draws.turn(-TILT, TILT), draws.choose(2), draws.uniform(*scale)
    pieces = [piece.placed(along, 0j, mirror) for piece in pieces]
    left, right, top, bottom = bounds(pieces)
    factor = length / max(right - left, bottom - top)
    x = draws.uniform(0, 1 - factor * (right - left)) - factor * left
    y = draws.uniform(0, 1 - factor * (bottom - top)) - factor * top
    return [piece.placed(factor * side, side * complex(x, y)) for piece in pieces], length


def key_points(pieces, part):
    """float32 [K, 3], see ShapesSource; pieces and part [S, S] of one thing."""
    points = np.zeros((len(POINTS), 3), np.float32)
    side = len(part)
    for piece in pieces:
        if piece.point is not None:
            x, y = np.float32(piece.spot.real), np.float32(piece.spot.imag)
            row, column = math.floor(y), math.floor(x)
            seen = min(row, column) >= 0 and max(row, column) < side
            seen = seen and part[row, column] == part_number(piece)
            points[POINTS.index(piece.point)] = y, x, seen
    return points
