"""Pictures of the procedural data set: a thing, how it is painted, and what is behind it.

S side of the image in pixels, h x w a window of it.
"""

from typing import NamedTuple

import numpy as np

from vitjax.data.shapes.figures import FIGURES, PARTS
from vitjax.data.shapes.pieces import Piece, bounds, coverage, distance, ellipse, polygon, window
from vitjax.data.shapes.textures import Texture, clipped, draw_texture, paint, turn

INK = "eye"  # the part that is painted in ink, as contours are
BULGE = 0.6  # how far a round thing stands out, in its radius
SHADOW = 0.035  # how far a shadow falls, as a share of the side


class Ground(NamedTuple):
    """What is behind: a plane in perspective, and scraps that lie on it."""

    texture: Texture
    luminance: float
    slope: tuple[float, float]  # of 1 / depth from the middle to the right, and to the bottom; 1
    depth: float  # in metres, where nearest
    scraps: list[tuple[Piece, Texture]]


def draw_ground(draws, depth, scraps):
    """depth: of the thing in front of it, in metres."""
    luminance = draws.uniform(0.15, 0.85)
    return Ground(
        draw_texture(draws, luminance, (0.16, 0.4)),
        luminance,
        (draws.uniform(-0.2, 0.2), draws.uniform(0, 0.45)),  # as a floor: near at the bottom
        depth * draws.uniform(1.1, 1.8),
        scraps,
    )


def draw_scrap(draws, side):
    """An ellipse or a regular polygon in pixels of an image of this side, and its texture."""
    centre = complex(draws.uniform(0, 1), draws.uniform(0, 1))
    radius, along, corners = draws.uniform(0.03, 0.09), draws.turn(0, 360), 2 + draws.choose(4)
    if corners == 2:
        piece = ellipse("scrap", centre, radius, 0.6 * radius, along)
    else:
        ray = radius * along
        piece = polygon("scrap", [centre + ray * turn(360 / corners * k) for k in range(corners)])
    texture = draw_texture(draws, draws.uniform(0.15, 0.85), (0.08, 0.16))
    return piece.placed(side, 0j), texture


def paint_ground(ground, side):
    """The picture without the thing: colours float32 [3, S, S], depth float32 [S, S] in metres."""
    across = np.arange(side, dtype=np.float32) + np.float32(0.5 - side / 2)
    x, y = across[None, :], across[:, None]
    right, down = (np.float32(slope / (side / 2)) for slope in ground.slope)
    zoom = 1 / (1 + x * right + y * down)
    colours = paint(ground.texture, x, y, side, zoom)
    colours *= np.float32(1.1) - np.float32(0.1) * zoom  # far is dim
    for piece, texture in ground.scraps:
        inside, column, row = window(piece.box(), side)
        over = coverage(distance(piece, column, row))
        here = colours[:, *inside]
        here += over * (paint(texture, column, row, side) - here)
    nearest = 1 + sum(abs(slope) for slope in ground.slope)
    return colours, zoom * np.float32(ground.depth * nearest)


class Surface(NamedTuple):
    """How a thing is painted. Lengths are shares of the side of the image."""

    skins: tuple[Texture, Texture]
    accents: frozenset[str]  # the parts in the second skin
    ink: float  # luminance of contours and eyes
    contour: float  # its width; 0 for none
    light: complex | None  # which way it falls; None for flat paint


def draw_surface(draws, behind, told):
    """behind: luminance of the ground; told: the class that the texture tells, or None."""
    step, sign = draws.uniform(0.25, 0.42), draws.sign()
    luminance = behind + sign * step
    if not 0.08 < luminance < 0.92:
        luminance = behind - sign * step
    hue = draws.uniform(-0.03, 0.03)
    kind = None if told is None else (told, told / len(FIGURES) + hue)
    first = draw_texture(draws, luminance, (0.1, 0.24), kind)
    second = draw_texture(draws, luminance + draws.uniform(-0.12, 0.12), (0.1, 0.24), kind)
    light = draws.turn(30, 150) if draws.choose(2) else None
    contour = draws.uniform(0.012, 0.03) if draws.choose(2) else 0.0
    accents = frozenset(part for part in PARTS if draws.choose(2))
    ink = 0.06 if luminance > 0.4 else 0.95
    return Surface((first, second), accents, ink, contour, light)


class Layers(NamedTuple):
    """The pieces of a thing laid over each other, [S, S] each."""

    part: np.ndarray  # uint8: at the centre of the pixel, see PARTS
    cover: np.ndarray  # float32: share of the pixel that the thing covers
    accent: np.ndarray  # float32: share of the second skin
    ink: np.ndarray  # float32: share of ink
    relief: np.ndarray  # float32: how far the piece stands out by itself, in pixels
    height: np.ndarray  # float32: and with all that it lies on, so that what hides is nearer


def rasterise(pieces, surface, side):
    """Layers of pieces in pixels, from back to front."""
    part = np.zeros((side, side), np.uint8)
    layers = Layers(part, *np.zeros((5, side, side), np.float32))
    width = max(surface.contour * side, 0.7) if surface.contour else 0.0
    for piece in pieces:
        inside, x, y = window(piece.box(), side)
        away = distance(piece, x, y)
        part, cover, accent, ink, relief, height = (layer[inside] for layer in layers)
        over, within, rise = coverage(away), away < 0, bulge(piece, away)
        np.copyto(part, np.uint8(part_number(piece)), where=within)
        cover += over * (1 - cover)
        accent += over * ((piece.part in surface.accents) - accent)
        line = over if piece.part == INK else over - coverage(away + np.float32(width))
        ink *= 1 - over
        ink += line
        np.copyto(relief, rise, where=within)
        np.copyto(height, rise + height.max(where=within, initial=0), where=within)
    return layers


def part_number(piece):
    """How its part is written in a map of parts."""
    return 1 + PARTS.index(piece.part)


def bulge(piece, away):
    """How far each place inside a piece stands out: round, or flat with round edges (polygons)."""
    radius = max(-away.min(), np.float32(0.5))
    if piece.kind == "polygon":
        radius *= np.float32(0.4)
    share = clipped(-away / radius)
    return np.float32(BULGE) * radius * np.sqrt(share * (2 - share))


def compose(layers, pieces, surface, colours, side):
    """uint8 [S, S, 3]: the thing over the colours of its ground, which are written over."""
    inside, x, y = window(bounds(pieces), side)
    middle = np.float32(side / 2)
    skin, other = (paint(each, x - middle, y - middle, side) for each in surface.skins)
    skin += layers.accent[inside] * (other - skin)
    if surface.light is not None:
        skin *= shading(layers.relief[inside], surface.light)
        shift = SHADOW * side * surface.light
        colours *= 1 - np.float32(0.4) * shifted(layers.cover, round(shift.real), round(shift.imag))
    skin += layers.ink[inside] * (np.float32(surface.ink) - skin)
    here = colours[:, *inside]
    here += layers.cover[inside] * (skin - here)
    pixels = (clipped(colours) * 255 + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def shading(relief, light):
    """Lambert's law for a relief in pixels: the brightness of each, 1 where it is flat."""
    right, down = np.zeros_like(relief), np.zeros_like(relief)
    right[:, 1:-1] = (relief[:, 2:] - relief[:, :-2]) / 2
    down[1:-1] = (relief[2:] - relief[:-2]) / 2
    along = right * np.float32(light.real) + down * np.float32(light.imag)
    return np.clip((1 + along) / np.sqrt(1 + right * right + down * down), 0.45, 1.4)


def shifted(array, right, down):
    """An array [S, S] moved by whole pixels, zeros where nothing came from."""
    moved = np.zeros_like(array)
    height, width = array.shape
    to = np.s_[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    back = np.s_[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    moved[to] = array[back]
    return moved
