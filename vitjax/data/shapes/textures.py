"""What the procedural shapes are painted with: hashed draws, patterns of a plane, colours.

A picture must be the same on every machine. Arrays therefore see only operations that IEEE 754
rounds exactly (+ - * /, square root, floor, comparisons), never a sine, a power or a product of
matrices; what comes out of a sine in double precision is rounded to float32 before it meets one.
"""

import cmath
import hashlib
import math
import struct
from typing import NamedTuple

import numpy as np

LATTICE = 16  # value noise repeats after so many cells
NUMBERS = 256  # of one Draws
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (Rec. 601)


class Draws:
    """Random numbers read off a hash of a name: the same on every machine, for ever."""

    def __init__(self, name):
        self._hash = hashlib.shake_256(name.encode())
        self._numbers = iter(struct.unpack(f"<{NUMBERS}I", self._hash.digest(4 * NUMBERS)))

    def uniform(self, low, high):
        """A number in [low, high)."""
        return low + (high - low) * (next(self._numbers) / 2**32)

    def choose(self, count):
        """A whole number below count."""
        return next(self._numbers) * count >> 32

    def sign(self):
        """-1 or 1."""
        return 2 * self.choose(2) - 1

    def turn(self, low, high):
        """A direction between two angles in degrees, as a unit complex number."""
        return turn(self.uniform(low, high))

    def lattice(self):
        """float32 [LATTICE * LATTICE], uniform in [0, 1]; the same at every call."""
        data = self._hash.digest(4 * NUMBERS + LATTICE**2)[4 * NUMBERS :]
        return np.frombuffer(data, np.uint8).astype(np.float32) / np.float32(255)


def turn(degrees):
    """The direction x + iy of an angle, clockwise in an image (y points down)."""
    return cmath.exp(1j * math.radians(degrees))


def wave(x):
    """The triangle wave: 1 at whole numbers, 0 half way between."""
    return np.abs(2 * (x - np.floor(x)) - 1)


def clipped(x):
    """To 0..1; np.clip takes thrice as long for small arrays."""
    return np.minimum(np.maximum(x, 0), 1)


def edge(field, sharp):
    """0 where the field is negative, 1 where it is positive, and a ramp of slope `sharp`."""
    return clipped(field * sharp + 0.5)


def noise(u, v, lattice):
    """Value noise: random values at whole (u, v), smoothly interpolated. In [0, 1]."""
    column, row = np.floor(u), np.floor(v)
    s, t = u - column, v - row
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    column, row = column.astype(np.int32), row.astype(np.int32)
    left, right = column & (LATTICE - 1), (column + 1) & (LATTICE - 1)
    above, below = (row & (LATTICE - 1)) * LATTICE, ((row + 1) & (LATTICE - 1)) * LATTICE
    corner = lattice.take(above + left)
    top = corner + s * (lattice.take(above + right) - corner)
    corner = lattice.take(below + left)
    bottom = corner + s * (lattice.take(below + right) - corner)
    return top + t * (bottom - top)


# Patterns: u, v float32 arrays in periods, p the pixels of a period, noise lattice -> the share of
# the second colour, in [0, 1]. Their edges are about a pixel wide.


def bricks(u, v, p, lattice):
    row = np.floor(2 * v)
    joint = np.maximum(wave(u + 0.5 * row) - 0.85, 0.5 * wave(2 * v) - 0.35)
    return edge(joint, p / 2)


def checks(u, v, p, lattice):
    return edge((wave(u) - 0.5) * (wave(v) - 0.5), 2 * p)


def dots(u, v, p, lattice):
    row = np.floor(v)
    a, b = u + 0.5 * row, v - row - 0.5
    a = a - np.floor(a) - 0.5
    return edge(0.33 - np.sqrt(a * a + b * b), p)


def grid(u, v, p, lattice):
    return edge(np.maximum(wave(u), wave(v)) - 0.75, p / 2)


def marble(u, v, p, lattice):
    return wave(0.6 * u + 1.6 * noise(u, v, lattice))


def clouds(u, v, p, lattice):
    return edge(noise(1.4 * u, 1.4 * v, lattice) - 0.5, 2.5)


def rings(u, v, p, lattice):
    return edge(wave(np.sqrt(u * u + v * v)) - 0.5, p / 2)


def scales(u, v, p, lattice):
    row = np.floor(2 * v)
    a = u + 0.5 * row
    a, b = a - np.floor(a) - 0.5, 2 * v - row
    return np.minimum(2.2 * a * a + 0.8 * b * b, 1)


def stripes(u, v, p, lattice):
    return edge(wave(u) - 0.5, p / 2)


def zigzag(u, v, p, lattice):
    return edge(wave(v + 0.5 * wave(u)) - 0.5, p / 2.8)


def plain(u, v, p, lattice):
    return np.zeros_like(u)


# In the order of the classes, where texture tells the class; plain, at the end, never does.
PATTERNS = (
    *(bricks, checks, clouds, dots, grid, marble, rings, scales, stripes, zigzag),
    plain,
)


class Texture(NamedTuple):
    """A pattern in two colours. Lengths are shares of the side of the image."""

    pattern: int  # of PATTERNS
    period: float
    turn: complex
    shift: complex  # in periods
    colours: np.ndarray  # float32 [2, 3], in 0..1
    lattice: np.ndarray


def draw_texture(draws, luminance, period, told=None):
    """A random texture: of about this luminance, a period between these shares of the side.

    told: (pattern, hue) to have instead of random ones, and then in fresher colours.
    """
    pattern, hue, drift = draws.choose(len(PATTERNS)), draws.uniform(0, 1), 0.12
    saturation = 0.15, 0.6
    if told is not None:
        (pattern, hue), drift, saturation = told, 0.03, (0.45, 0.7)
    hues = hue, hue + draws.uniform(-drift, drift)
    contrast = draws.uniform(0.07, 0.15) * draws.sign()
    colours = [
        colour(each, draws.uniform(*saturation), luminance + step)
        for each, step in zip(hues, (-contrast, contrast), strict=True)
    ]
    return Texture(
        pattern,
        draws.uniform(*period),
        draws.turn(0, 360),
        complex(draws.uniform(-1.5, 1.5), draws.uniform(-1.5, 1.5)),
        np.array(colours, np.float32),
        draws.lattice(),
    )


def colour(hue, saturation, luminance):
    """A colour of this luminance. All in 0..1, hue in turns; returns 3 floats in 0..1."""
    sixth = 6 * (hue % 1)
    pure = (abs(sixth - 3) - 1, 2 - abs(sixth - 2), 2 - abs(sixth - 4))
    pure = [min(max(channel, 0.0), 1.0) for channel in pure]
    grey = sum(weight * channel for weight, channel in zip(LUMINANCE, pure, strict=True))
    return [min(max(luminance + saturation * (c - grey), 0.0), 1.0) for c in pure]


def paint(texture, x, y, side, zoom=1):
    """float32 [3, h, w]: a texture at places x, y in pixels (float32).

    side: of the image. zoom: how much further than in its middle the plane is, float32 [h, w].
    """
    pixels = np.float32(texture.period * side)
    cosine, sine = np.float32(texture.turn.real) / pixels, np.float32(texture.turn.imag) / pixels
    x, y = x * zoom, y * zoom
    u = x * cosine + y * sine + np.float32(texture.shift.real)
    v = y * cosine - x * sine + np.float32(texture.shift.imag)
    share = PATTERNS[texture.pattern](u, v, pixels / zoom, texture.lattice)
    first, second = texture.colours[:, :, None, None]
    return first + share[None] * (second - first)
