"""The pieces that the figures of the procedural data set are made of, and how they meet pixels.

Places are complex numbers x + iy, y down. h x w is a window of the image.
"""

import math
from typing import NamedTuple

import numpy as np

from vitjax.data.shapes.textures import clipped


class Piece(NamedTuple):
    """An ellipse, a ring, a limb (a stroke with round ends) or a convex polygon of a part.

    at, size: ellipse (centre), (half axes); ring (centre), (half axes, half its width); limb (both
    ends), (radius at each); polygon (corners), (). along: direction of the first half axis.
    point: the key point that it carries, at `spot`.
    """

    kind: str
    part: str
    at: tuple[complex, ...]
    size: tuple[float, ...]
    along: complex = 1 + 0j
    point: str | None = None
    spot: complex = 0j

    def placed(self, factor, shift, mirror=False):
        """Mirrored left to right, or not; then turned and scaled by `factor`, and shifted."""

        def move(z):
            return factor * (-z.conjugate() if mirror else z) + shift

        along = move(self.along) - shift
        return self._replace(
            at=tuple(move(z) for z in self.at),
            size=tuple(abs(factor) * length for length in self.size),
            along=along / abs(along),
            spot=move(self.spot),
        )

    def box(self):
        """Its bounds (left, right, top, bottom)."""
        at = self.at
        if self.kind in ("ellipse", "ring"):
            grow = self.size[2] if self.kind == "ring" else 0
            a, b = (self.along * (half + grow) for half in self.size[:2])
            across, up = math.hypot(a.real, b.imag), math.hypot(a.imag, b.real)
            return (
                *(at[0].real - across, at[0].real + across),
                *(at[0].imag - up, at[0].imag + up),
            )
        if self.kind == "limb":
            corner = 1 + 1j
            at = [z + r * c for z, r in zip(at, self.size, strict=True) for c in (-corner, corner)]
        x, y = [z.real for z in at], [z.imag for z in at]
        return min(x), max(x), min(y), max(y)


def ellipse(part, centre, a, b, along=1 + 0j, point=None, spot=None):
    spot = centre if spot is None else spot
    return Piece("ellipse", part, (centre,), (a, b), along, point, spot)


def ring(part, centre, a, b, width, point):
    return Piece("ring", part, (centre,), (a, b, width), 1 + 0j, point, centre + a)


def limb(part, start, end, first, last, point=None, spot=None):
    spot = end if spot is None else spot
    return Piece("limb", part, (start, end), (first, last), 1 + 0j, point, spot)


def polygon(part, corners, point=None, spot=None):
    spot = sum(corners) / len(corners) if spot is None else spot
    return Piece("polygon", part, tuple(corners), (), 1 + 0j, point, spot)


def fan(tip, back, spread):
    """The corners of a triangle: from its tip `back` to its base, `spread` times as wide."""
    return tip, tip + back * (1 + 0.5j * spread), tip + back * (1 - 0.5j * spread)


def upright(left, right, top, bottom):
    """The corners of an upright rectangle."""
    return complex(left, top), complex(right, top), complex(right, bottom), complex(left, bottom)


def bounds(pieces):
    """(left, right, top, bottom) of pieces together."""
    left, right, top, bottom = zip(*(piece.box() for piece in pieces), strict=True)
    return min(left), max(right), min(top), max(bottom)


def window(box, side):
    """The pixels in and about a box: (slices, x float32 [1, w], y float32 [h, 1] of centres)."""
    low = [max(0, math.floor(value) - 1) for value in box[::2]]
    high = [min(side, math.ceil(value) + 1) for value in box[1::2]]
    x, y = (
        np.arange(*ends, dtype=np.float32) + np.float32(0.5) for ends in zip(low, high, strict=True)
    )
    return np.s_[low[1] : high[1], low[0] : high[0]], x[None, :], y[:, None]


def distance(piece, x, y):
    """float32 [h, w]: how far points x [1, w], y [h, 1] are from the outline, negative inside.

    All in pixels. Right next to the outline, which is all that is asked of it; elsewhere it has
    the right sign, and grows.
    """
    return DISTANCES[piece.kind](piece, x, y)


def from_ellipse(piece, x, y):
    """To first order: (f - 1) / |grad f| for f = |(u, v)|, with u, v in half axes."""
    (centre,), (a, b) = piece.at, (np.float32(half) for half in piece.size[:2])
    cosine, sine = np.float32(piece.along.real), np.float32(piece.along.imag)
    x, y = x - np.float32(centre.real), y - np.float32(centre.imag)
    u, v = (x * cosine + y * sine) / a, (y * cosine - x * sine) / b
    f = np.sqrt(u * u + v * v)
    u, v = u / a, v / b
    tiny = np.float32(1e-4)  # at the centre neither f nor its gradient is of use
    return (f - 1) * (f + tiny) / (np.sqrt(u * u + v * v) + tiny / min(a, b))


def from_ring(piece, x, y):
    return np.abs(from_ellipse(piece, x, y)) - np.float32(piece.size[2])


def from_limb(piece, x, y):
    (start, end), (first, last) = piece.at, piece.size
    axis = end - start
    unit = axis / abs(axis) ** 2
    x, y = x - np.float32(start.real), y - np.float32(start.imag)
    share = clipped(x * np.float32(unit.real) + y * np.float32(unit.imag))
    x, y = x - share * np.float32(axis.real), y - share * np.float32(axis.imag)
    return np.sqrt(x * x + y * y) - (np.float32(first) + share * np.float32(last - first))


def from_polygon(piece, x, y):
    ends = (*piece.at[1:], piece.at[0])
    sides = list(zip(piece.at, ends, strict=True))
    area = sum((start.conjugate() * end).imag for start, end in sides)
    furthest = np.float32(-math.inf)
    for start, end in sides:
        normal = (end - start) / abs(end - start) * (-1j if area > 0 else 1j)
        level = (normal.conjugate() * start).real
        row = x * np.float32(normal.real) - np.float32(level)
        furthest = np.maximum(furthest, row + y * np.float32(normal.imag))
    return furthest


DISTANCES = dict(ellipse=from_ellipse, ring=from_ring, limb=from_limb, polygon=from_polygon)


def coverage(distance):
    """The share of a pixel inside an outline that is so far from its centre."""
    return clipped(np.float32(0.5) - distance)
