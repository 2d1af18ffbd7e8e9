"""Sizes that leave a part of the chip idle, and the nearest that do not."""

import math

import jax

from vitjax.sharding import rules
from vitjax.sharding.rules import path_of

IDLE = 0.05  # of the lanes or of the matrix unit: what is less is not worth a line
FINE = 0.1  # of the parameters, in parts of less than whole tiles
LARGE = 0.02  # of the parameters: smaller matrices are not named


def advise(recipe, experiment, chip) -> list[str]:
    """One line per size, the dearest first.

    A matrix unit takes sides of `chip.unit`, a vector `chip.lanes` numbers;
    what is no multiple is filled up, and the filling is computed too.
    """
    lines = []
    images = recipe.batch_size // (
        experiment.mesh.shape["replica"] * experiment.mesh.shape["data"] * recipe.accumulate
    )
    if chip.kind.startswith("TPU"):
        lines += _parts(recipe, experiment)
    lines += _heads(experiment, chip)
    lines += _matrices(experiment, chip)
    tokens = tokens_of(experiment, recipe.views["size"])
    rows = images * tokens
    if idle(rows, chip.unit) > IDLE:
        more = range(images + 1, images + chip.unit + 1)
        fuller = next(each for each in more if idle(each * tokens, chip.unit) <= IDLE)
        lines.append(
            f"{images} images of {tokens} tokens a device are {rows} rows, which fill "
            f"{_share(rows, chip.unit)} of the matrix unit's: batch_size of "
            f"{_batch(images, recipe, fuller)} for {fuller} images"
        )
    return lines


def tokens_of(experiment, size: int) -> int:
    """Rows that one image is for the last layers: tokens, or places of the last map."""
    side = max(1, size // experiment.encoder.stride)
    return side * side + experiment.encoder.prefix


def idle(size: int, unit: int) -> float:
    """The share of what is computed that is filling."""
    return 1 - size / (math.ceil(size / unit) * unit)


def nearest(size: int, unit: int) -> list[int]:
    """The multiples below and above; below only where there is one."""
    return [n for n in (size // unit * unit, math.ceil(size / unit) * unit) if n]


def _parts(recipe, experiment):
    """Of parameters that FSDP cuts so fine that they are gathered by sums."""
    params, mesh = experiment.target.params, experiment.mesh
    broken, data = _broken(params, mesh.shape, recipe.sharding), mesh.shape["data"]
    if broken <= FINE:
        return []
    line = f"{broken:.0%} of the parameters lie in parts of less than whole tiles, gathered by sums"
    while data % 2 == 0 and data > 2:
        data //= 2
        replica = mesh.shape["replica"] * mesh.shape["data"] // data
        coarser = {"replica": replica, "data": data, "model": mesh.shape["model"]}
        if _broken(params, coarser, recipe.sharding) <= FINE:
            return [f"{line} of twice the bytes: mesh.replica={replica}, mesh.data={data}"]
    return [line]


def _broken(params, sizes, section) -> float:
    """The share of parameters that are cut over `data` in parts that are no whole tiles."""
    mesh = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    placed = rules.shardings(params, mesh, **section)
    broken = total = 0
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(placed), strict=True):
        size = math.prod(leaf.shape)
        total += size
        for dim, entry in enumerate(place.spec):
            parts = math.prod(sizes[name] for name in rules.names_of(entry))
            cut = "data" in rules.names_of(entry)
            broken += size * (cut and not rules.whole_tiles(leaf.shape, dim, parts))
    return broken / total


def _heads(experiment, chip):
    """Of attention: heads are products over their width."""
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(experiment.target.params):
        path = path_of(key_path)
        if path.startswith("encoder") and path.endswith("query/kernel"):
            width, head = leaf.shape[-3], leaf.shape[-1]
            # Two heads of 64 stand side by side in the kernels (docs/attention.md).
            unit = chip.lanes // 2 if head <= chip.lanes // 2 else chip.lanes
            if idle(head, unit) <= IDLE:
                return []
            good = [n for n in (64, 128) if width % n == 0]
            better = " or ".join(f"{width // n} heads of {n}" for n in good)
            near = " or ".join(f"{n}" for n in nearest(width, 128))
            return [
                f"heads of {head} fill {_share(head, unit)} of {unit} lanes: "
                + (f"encoder.heads {better}" if good else f"encoder.width {near}, heads of 64")
            ]
    return []


def _matrices(experiment, chip):
    """Sides of the encoder's large matrices that leave much of the matrix unit idle."""
    leaves = jax.tree_util.tree_leaves_with_path(experiment.target.params)
    total = sum(math.prod(leaf.shape) for _, leaf in leaves)
    named = {}
    for key_path, leaf in leaves:
        path = path_of(key_path)
        if not path.endswith("kernel") or math.prod(leaf.shape) < LARGE * total:
            continue
        for side in _sides(path, leaf.shape):
            if idle(side, chip.unit) > IDLE:
                named.setdefault(side, []).append(path.removesuffix("/kernel"))
    return [
        f"a side of {side} fills {_share(side, chip.unit)} of the matrix unit's {chip.unit}: "
        f"nearest {' or '.join(map(str, nearest(side, chip.unit)))} ({paths[0]}"
        + (f" and {len(paths) - 1} more)" if len(paths) > 1 else ")")
        for side, paths in sorted(named.items(), key=lambda item: -idle(item[0], chip.unit))
    ]


def _sides(path, shape):
    """What a kernel is as a matrix: (what is summed over, what comes out)."""
    shape = shape[1:] if "blocks/" in path else shape
    if path.endswith(("query/kernel", "key/kernel", "value/kernel")):
        return shape[0], math.prod(shape[1:])
    if path.endswith("attention/out/kernel"):
        return math.prod(shape[:-1]), shape[-1]
    return math.prod(shape[:-1]), shape[-1]


def _share(size, unit):
    return f"{1 - idle(size, unit):.0%}"


def _batch(images, recipe, wanted):
    return recipe.batch_size // images * wanted
