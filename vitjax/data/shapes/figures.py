"""Ten things made of named parts: the figures of the procedural data set (shapes.py).

A figure is a list of pieces, back to front, that faces right and is about 2 long; its limbs,
proportions and joints are drawn. Places are complex numbers x + iy with y down.
"""

from vitjax.data.shapes.pieces import ellipse, fan, limb, polygon, ring, upright
from vitjax.data.shapes.textures import turn

# Part p of a map is PARTS[p - 1]; p = 0 is none.
PARTS = (
    *("arm", "backrest", "beak", "body", "chimney", "crown", "door", "ear", "eye", "fin", "fruit"),
    *("handle", "head", "leg", "mast", "rim", "roof", "sail", "seat", "tail", "trunk", "wheel"),
    *("window", "wing"),
)
# Key points. The last word of each names the part it lies on; front is where the thing faces.
POINTS = (
    *("backrest", "beak", "body", "chimney", "crown", "door", "ear", "eye", "fin", "front arm"),
    *("front leg", "front sail", "front wheel", "front window", "handle", "head", "mast"),
    *("rear arm", "rear leg", "rear sail", "rear wheel", "rear window", "rim", "roof", "seat"),
    *("tail", "trunk", "wing"),
)


# d is a textures.Draws.


def bird(d):
    tilt, neck, back = d.turn(-25, 10), d.turn(-60, -30), d.turn(165, 200)
    length, leg = d.uniform(0.52, 0.62), d.uniform(0.38, 0.55)
    head, tail = 0.45 * tilt + 0.36 * neck, -0.3 * length * tilt
    flap = d.turn(-150, -80) if d.choose(2) else d.turn(150, 190)  # raised, or folded
    hips = 0.3j - 0.08 * tilt, 0.3j + 0.12 * tilt
    feet = [hip + leg * d.turn(75, 110) for hip in hips]
    shoulder = 0.12 * tilt - 0.06j
    return [
        limb("leg", hips[0], feet[0], 0.05, 0.05, "rear leg"),
        limb("leg", hips[1], feet[1], 0.05, 0.05, "front leg"),
        polygon("tail", fan(tail, 0.95 * back, 0.5), "tail", tail + 0.82 * back),
        polygon("beak", fan(head + 0.5 * turn(8), 0.36 * turn(188), 0.66), "beak", head + 0.3),
        ellipse("body", 0j, length, 0.36, tilt, "body", 0.35 * length * tilt + 0.14j),
        ellipse("head", head, 0.25, 0.23, 1 + 0j, "head", head - 0.06 + 0.06j),
        ellipse("eye", head + 0.09 - 0.06j, 0.05, 0.05, 1 + 0j, "eye"),
        ellipse("wing", shoulder + 0.3 * flap, 0.44, 0.17, flap, "wing", shoulder + 0.6 * flap),
    ]


def boat(d):
    length, depth, height = d.uniform(0.8, 1.0), d.uniform(0.3, 0.42), d.uniform(1.1, 1.4)
    foot, lean = d.uniform(-0.1, 0.15), d.turn(-98, -82)
    boom, jib = d.uniform(0.55, 0.8), d.uniform(0.4, 0.65)
    low, high = foot + 0.2 * lean, foot + 0.94 * height * lean
    hull = -length, 1.08 * length - 0.06j, 0.68 * length + depth * 1j, -0.8 * length + depth * 1j
    return [
        limb("mast", foot + 0.1j, foot + height * lean, 0.06, 0.05, "mast"),
        polygon("sail", (low - 0.07, high - 0.07, low - boom), "rear sail"),
        polygon("sail", (low + 0.09, 0.85 * high + 0.15 * low + 0.09, low + jib), "front sail"),
        polygon("body", hull, "body"),
    ]


def car(d):
    height, cabin, wheel = d.uniform(0.34, 0.44), d.uniform(0.32, 0.44), d.uniform(0.19, 0.25)
    rear, front, slope = d.uniform(-0.9, -0.55), d.uniform(0.45, 0.75), d.uniform(0.15, 0.35)
    middle = (rear + front) / 2 - d.uniform(0.0, 0.12)
    up, floor = -cabin * 1j, height * 1j
    glass, sill = 0.8 * up, 0.12 * up
    windows = [
        (rear + 0.14 + sill, middle - 0.04 + sill, middle - 0.04 + glass, rear + 0.2 + glass),
        (
            *(middle + 0.06 + sill, front - 0.12 + sill),
            *(front - 0.07 - slope + glass, middle + 0.06 + glass),
        ),
    ]
    roof = rear, front, front - slope + up, rear + 0.12 + up
    body = -1, 0.88 - 0.02j, 1 + 0.3 * floor, 1 + floor, -1 + floor
    return [
        polygon("roof", roof, "roof", middle + 0.01 + 0.5 * up),
        polygon("window", windows[0], "rear window"),
        polygon("window", windows[1], "front window"),
        polygon("body", body, "body", 0.42 * floor),
        ellipse("wheel", -0.56 + floor, wheel, wheel, 1 + 0j, "rear wheel"),
        ellipse("wheel", 0.58 + floor, wheel, wheel, 1 + 0j, "front wheel"),
    ]


def chair(d):
    width, leg, high = d.uniform(0.42, 0.58), d.uniform(0.65, 0.9), d.uniform(0.75, 1.0)
    behind = complex(d.uniform(0.18, 0.32), -d.uniform(0.14, 0.26))
    lean, thick, splay = high * d.turn(-100, -88), d.uniform(0.055, 0.08), d.uniform(-0.1, 0.14)
    left, right = behind - width, behind + width
    back = left - 0.04, left - 0.04 + lean, right + 0.04 + lean, right + 0.04
    seat = 0.1j - width - 0.04, left - 0.04, right + 0.04, 0.1j + width + 0.04
    legs = [(side * (width - 0.06), side * (width - 0.06 + splay) + leg * 1j) for side in (-1, 1)]
    return [
        *(limb("leg", behind + a, 0.9 * behind + b, thick, thick) for a, b in legs),
        polygon("backrest", back, "backrest", behind + 0.7 * lean),
        limb("leg", *legs[0], thick, thick, "rear leg"),
        limb("leg", *legs[1], thick, thick, "front leg"),
        polygon("seat", seat, "seat"),
    ]


def dog(d):
    length, leg, thick = d.uniform(0.45, 0.6), d.uniform(0.45, 0.7), d.uniform(0.07, 0.1)
    head, nod, wag = length + 0.45 * d.turn(-65, -30), d.turn(-10, 30), d.turn(-165, -100)
    hips = [place + 0.1j for place in (0.1 - length, length + 0.08, -0.08 - length, length - 0.1)]
    feet = [hip + (0.05 + leg) * d.turn(70, 110) for hip in hips]
    legs = [limb("leg", *ends, thick, 0.8 * thick) for ends in zip(hips, feet, strict=True)]
    rump = -length - 0.12 - 0.12j
    return [
        *legs[:2],
        limb("tail", rump, rump + d.uniform(0.35, 0.55) * wag, 0.08, 0.05, "tail"),
        limb("body", length + 0j, head, 0.2, 0.16),
        limb("body", -length + 0j, length + 0j, 0.23, 0.27, "body", 0j),
        legs[2]._replace(point="rear leg", spot=feet[2]),
        legs[3]._replace(point="front leg", spot=feet[3]),
        limb("head", head, head + 0.34 * nod, 0.22, 0.12, "head"),
        ellipse("eye", head + nod * (0.1 - 0.08j), 0.045, 0.045, 1 + 0j, "eye"),
        limb("ear", head - nod * (0.1 + 0.12j), head + 0.28 * turn(115), 0.07, 0.1, "ear"),
    ]


def fish(d):
    height, swish, fork = d.uniform(0.34, 0.48), 0.55 * d.turn(165, 195), d.uniform(1.2, 1.9)
    paddle, fin, nose = d.turn(120, 165), d.uniform(0.25, 0.42), height * 0.72
    root, top = -0.55 + 0j, -0.15 - 0.7j * height
    back = top - 0.15, top + 0.5, top - 0.1 - (0.1 + fin) * 1j
    return [
        polygon("tail", fan(root, swish, fork), "tail", root + 0.75 * swish),
        polygon("fin", back, "fin", top + 0.05 - (0.3 * height + 0.35 * fin) * 1j),
        ellipse("body", 0j, 0.72, height, 1 + 0j, "body", -0.1 - 0.4j * height),
        ellipse("head", 0.42 + 0j, 0.32, nose, 1 + 0j, "head", 0.4 + 0.25j * height),
        ellipse("eye", 0.52 - 0.22j * height, 0.055, 0.055, 1 + 0j, "eye"),
        ellipse("fin", 0.05 + 0.14 * paddle + 0.3j * height, 0.2, 0.1, paddle),
    ]


def house(d):
    width, height, gable = d.uniform(0.6, 0.85), d.uniform(0.6, 0.9), d.uniform(0.4, 0.7)
    eaves, smoke = d.uniform(0.08, 0.2), d.uniform(0.35, 0.5) * width
    door, window = d.uniform(-0.6, -0.3) * width, d.uniform(0.35, 0.55) * width
    pane, sill = d.uniform(0.12, 0.17), 0.42 * height
    chimney = upright(smoke - 0.1, smoke + 0.1, -gable - 0.05, -0.1)
    glass = upright(window - pane, window + pane, sill - pane, sill + pane)
    leaf = upright(door - 0.14, door + 0.14, 0.4 * height, height)
    roof = -width - eaves + 0j, -gable * 1j, width + eaves + 0j
    return [
        polygon("chimney", chimney, "chimney", smoke - (0.85 * gable + 0.02) * 1j),
        polygon("body", upright(-width, width, 0, height), "body", 0.85j * height),
        polygon("roof", roof, "roof", -0.4j * gable),
        polygon("door", leaf, "door"),
        polygon("window", glass, "front window"),
    ]


def mug(d):
    width, height, foot = d.uniform(0.45, 0.62), d.uniform(0.5, 0.75), d.uniform(0.75, 1.05)
    grip, loop, lip = d.uniform(0.28, 0.4), d.uniform(0.45, 0.65), d.uniform(0.12, 0.2)
    up, foot = height * 1j, foot * width
    side = -width - up, width - up, foot + up, -foot + up
    return [
        ring("handle", (width + foot) / 2 - 0.05 + 0j, grip, loop * height, 0.085, "handle"),
        ellipse("body", up, foot, 0.8 * lip),
        polygon("body", side, "body", 0.1j + 0j),
        ellipse("rim", -up, width, lip, 1 + 0j, "rim"),
    ]


def person(d):
    shoulder, hip, leg = d.uniform(0.24, 0.32), d.uniform(0.16, 0.22), d.uniform(0.75, 0.9)
    arm, thick, lean = d.uniform(0.55, 0.68), d.uniform(0.075, 0.1), d.uniform(-0.04, 0.04)
    limbs = []
    for side, name in ((-1, "rear"), (1, "front")):
        reach, step = arm * d.turn(-60, 85), leg * d.turn(68, 95)
        joint, top = side * shoulder - 0.46j, 0.7 * side * hip + 0.1j
        hand, foot = joint + complex(side * reach.real, reach.imag), complex(side * step.real, 0)
        foot += top + step.imag * 1j
        limbs.append(limb("leg", top, foot, 1.2 * thick, thick, f"{name} leg"))
        limbs.append(limb("arm", joint, hand, thick, 0.85 * thick, f"{name} arm"))
    body = (
        *(-shoulder - 0.08 - 0.55j, shoulder + 0.08 - 0.55j),
        *(hip + 0.06 + 0.2j, -hip - 0.06 + 0.2j),
    )
    return [
        *limbs,
        limb("body", -0.3j, -0.7j, 0.1, 0.08),
        polygon("body", body, "body"),
        ellipse("head", lean - 0.86j, 0.2, 0.24, 1 + 0j, "head"),
    ]


def tree(d):
    height, foot, bend = d.uniform(0.6, 0.95), d.uniform(0.1, 0.15), d.uniform(-0.12, 0.12)
    width, side = d.uniform(0.45, 0.65), d.uniform(0.3, 0.4)
    if d.choose(2):  # a conifer
        tips = [(bend - (0.6 + 0.35 * k) * 1j, (2 - 0.36 * k) * width / 0.75) for k in range(3)]
        crown = [polygon("crown", fan(tip, 0.75j, spread)) for tip, spread in tips]
    else:
        places = -side - 0.15j, side - 0.15j, bend - 0.55j
        crown = [
            ellipse("crown", at, d.uniform(0.38, 0.48), d.uniform(0.34, 0.44)) for at in places
        ]
    fruits = [
        bend + complex(d.uniform(*x), d.uniform(-0.45, 0.0)) for x in ((-0.3, 0), (0.1, 0.35))
    ]
    return [
        limb("trunk", height * 1j, bend - 0.2j, foot, 0.7 * foot, "trunk", 0.75j * height),
        *crown[:2],
        crown[2]._replace(point="crown"),
        *(ellipse("fruit", at, 0.08, 0.08) for at in fruits),
    ]


FIGURES = (bird, boat, car, chair, dog, fish, house, mug, person, tree)
