"""Which axis of each parameter is cut over which axis of the mesh, by name.

A rule is (regular expression, axes): it is searched for in the "/"-joined path of the array, the
first match wins, and its axes belong to the LAST dimensions (a tuple of names cuts one over
several), so that a stack of blocks (a leading layer axis) needs no rule of its own. Optimizer
moments and weight averages carry the path of their parameter inside their own, so the same rules
place them. After the rules, FSDP cuts the largest dimension that is still whole over `data`, of
those first whose parts are whole tiles.
"""

import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Megatron's cut (arXiv:1909.08053, sec. 3): heads and hidden units by column, then by row, one
# reduction per branch.
TENSOR_RULES = (
    # Prototypes [b, K] or [K] lie where their logits are made (ops.batch), never whole anywhere.
    (r"(prototypes/(kernel|scale)|centre/.*(mean|sum))$", (("data", "model"),)),
    (r"(query|key|value)/kernel$", ("model", None)),  # [D, H, Dh]
    (r"(query|key|value)/bias$", ("model", None)),  # [H, Dh]
    (r"attention/out/kernel$", ("model", None, None)),  # [H, Dh, D]
    (r"mlp/(up|gate)/kernel$", ("model",)),  # [D, M]
    (r"mlp/(up|gate)/bias$", ("model",)),  # [M]
    (r"mlp/down/kernel$", ("model", None)),  # [M, D]
    # The hidden layers of heads on prototypes: cut over `model`, gradients are wrong on a 2 x 2 x 2
    # mesh (jax 0.10.2, CPU; test_dinov2 holds the case).
    (r"_head/(hidden_\d+|bottleneck|out)/", ()),
    (r"head/.*kernel$", ("model",)),  # [D, C]
    (r"conv[^/]*/kernel$", ("model",)),  # [kh, kw, Cin, Cout]; not the depth-wise [kh, kw, 1, C]
    (r".*", ()),
)

# Dimension 0 of these is the layer axis of a scan: cutting it would gather one layer from one
# device.
STACKED = re.compile(r"(^|/)blocks/")


def path_of(key_path) -> str:
    """jax's key path -> "params/encoder/blocks/mlp/up/kernel"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def spec(
    path: str, shape: Sequence[int], mesh: Mesh, *, rules=TENSOR_RULES, fsdp=True, min_size=2**14
) -> P:
    """PartitionSpec of one array. Raises ValueError where no rule matches its path.

    fsdp: also cut over `data`. min_size: arrays with fewer elements stay whole (a gather costs more
    than they do). An axis that does not divide the dimension is left out.
    """
    axes = next((axes for pattern, axes in rules if re.search(pattern, path)), None)
    if axes is None:
        raise ValueError(f"no sharding rule matches {path!r}: end sharding.rules with ('.*', ())")
    axes = (None,) * (len(shape) - len(axes)) + tuple(axes)[max(0, len(axes) - len(shape)) :]
    cut = [_dividing(axis, size, mesh) for axis, size in zip(axes, shape, strict=True)]
    taken = {axis for entry in cut for axis in names_of(entry)}
    elements = 1
    for size in shape:
        elements *= size
    if fsdp and mesh.shape["data"] > 1 and elements >= min_size and "data" not in taken:
        first = 1 if STACKED.search(path) else 0
        free = [
            i
            for i in range(first, len(shape))
            if cut[i] is None and shape[i] % mesh.shape["data"] == 0
        ]
        if free:
            best = max(free, key=lambda i: (whole_tiles(shape, i, mesh.shape["data"]), shape[i]))
            cut[best] = "data"
    return P(*cut)


def whole_tiles(shape: Sequence[int], dim: int, parts: int) -> bool:
    """Whether each part of a dimension is whole tiles of 8 x 128. What is not, a TPU gathers by an
    all-reduce of arrays that are zero elsewhere, which moves twice the bytes."""
    tiles = {len(shape) - 1: 128, len(shape) - 2: 8}
    return shape[dim] // parts % tiles.get(dim, 1) == 0


def _dividing(axis, size: int, mesh: Mesh):
    """The axis, or those of several that are more than one device; None where they do not divide
    the size, or there is nothing to cut."""
    several = tuple(name for name in names_of(axis) if mesh.shape[name] > 1)
    if not several or size % math.prod(mesh.shape[name] for name in several):
        return None
    return several if len(several) > 1 else several[0]


def names_of(axis) -> tuple[str, ...]:
    """The mesh axes of one entry of a rule: None, a name, or a tuple of names."""
    if axis is None:
        return ()
    return axis if isinstance(axis, tuple) else (axis,)


def shardings(tree, mesh: Mesh, *, parameters: str = "fsdp", rules=(), min_size: int = 2**14):
    """A tree of NamedSharding for a tree of arrays or ShapeDtypeStructs.

    parameters: "fsdp" cuts every large array over `data`, "replicated" leaves them whole there.
    rules: (regular expression, axes) pairs tried before TENSOR_RULES.
    """
    if parameters not in ("fsdp", "replicated"):
        raise ValueError(
            f"sharding.parameters={parameters!r} is unknown: use 'fsdp' or 'replicated'"
        )
    for _, axes in rules:
        for axis in (name for entry in axes for name in names_of(entry)):
            if axis not in mesh.shape:
                raise ValueError(
                    f"sharding.rules names mesh axis {axis!r}; valid: {', '.join(mesh.shape)}"
                )

    def place(key_path, array):
        return NamedSharding(
            mesh,
            spec(
                path_of(key_path),
                array.shape,
                mesh,
                rules=(*rules, *TENSOR_RULES),
                fsdp=parameters == "fsdp",
                min_size=min_size,
            ),
        )

    return jax.tree_util.tree_map_with_path(place, tree)
