"""How our arrays and another project's tensors turn into each other: one table read both ways.

A layout's table is a list of `Rule`. Reading and writing are the two directions of the same `Form`,
so what comes in goes out bit for bit. Paths are those of `Model` variables, "/"-joined:
"encoder/...", "head/...", "stats/..."; tensors have the names of the file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

# C channels, D width, H heads, M hidden width, O outputs, I inputs.

Shape = tuple[int, ...]


class Form(NamedTuple):
    """One tensor of theirs as one or several arrays of ours, of a single layer.

    read(tensor, shapes) -> arrays, of exactly those shapes. write(arrays) -> tensor.
    """

    read: Callable[[np.ndarray, Sequence[Shape]], tuple[np.ndarray, ...]]
    write: Callable[[Sequence[np.ndarray]], np.ndarray]


class Rule(NamedTuple):
    """ours: a path, or several that one tensor holds (fused qkv). theirs: a name; a tuple of names
    where ours has a leading layer axis, one name per layer. form: of one layer. A rule without
    `ours` is a constant that their loaders ask for and that says nothing (see `constant`)."""

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    form: Form


def _single(read, write):
    """A Form of one array."""
    return Form(
        lambda tensor, shapes: (read(tensor, shapes[0]),),
        lambda arrays: write(arrays[0]),
    )


def copy_as(*template: int | None) -> Form:
    """The same numbers in the same order; theirs has the shape `template`, None standing for the
    count: copy_as(1, 1, None) holds a token [D] as [1, 1, D], copy_as(None, 1, 1) a scale as
    [C, 1, 1]."""

    def write(array):
        return array.reshape([array.size if n is None else n for n in template])

    return _single(lambda tensor, shape: tensor.reshape(shape), write)


# Biases, scales and other vectors: [C] there; also [H, D / H] here.
VECTOR = copy_as(None)
# Any array with the same shape and meaning on both sides.
SAME = _single(lambda tensor, shape: tensor.reshape(shape), lambda array: array)
# Linear weight [O, I] <-> kernel [I, O].
LINEAR = _single(
    lambda tensor, shape: tensor.T.reshape(shape),
    lambda array: array.reshape(array.shape[0], -1).T,
)
# Linear weight [O, H * D / H] <-> kernel [H, D / H, O], the projection after attention.
LINEAR_OUT = _single(
    lambda tensor, shape: tensor.T.reshape(shape),
    lambda array: array.reshape(-1, array.shape[-1]).T,
)
# A 1 x 1 convolution's weight [O, I, 1, 1] <-> kernel [I, O] of a linear layer.
LINEAR_1X1 = _single(
    lambda tensor, shape: tensor[:, :, 0, 0].T.reshape(shape),
    lambda array: array.reshape(array.shape[0], -1).T[:, :, None, None],
)
# Conv2d weight [O, I / groups, kh, kw] <-> kernel [kh, kw, I / groups, O].
CONV = _single(
    lambda tensor, shape: tensor.transpose(2, 3, 1, 0).reshape(shape),
    lambda array: array.transpose(3, 2, 0, 1),
)


def fused(part: Form, parts: int) -> Form:
    """Rows of one tensor are `parts` blocks of equal size, each `part`: [q; k; v], [gate; up]."""

    def read(tensor, shapes):
        blocks = np.split(tensor, parts, axis=0)
        return tuple(part.read(t, [s])[0] for t, s in zip(blocks, shapes, strict=True))

    return Form(read, lambda arrays: np.concatenate([part.write([a]) for a in arrays]))


QKV = fused(LINEAR, 3)
QKV_BIAS = fused(VECTOR, 3)


def constant(theirs: str, value: np.ndarray) -> Rule:
    """A tensor that their loaders ask for and nothing of ours answers to: read past, written so."""
    return Rule((), theirs, Form(lambda tensor, shapes: (), lambda arrays: value))


class Mismatch(ValueError):
    """Names and shapes that do not fit, all of them. `differences`: as checkpoint.compare gives."""

    def __init__(self, differences: dict[str, list[str]]):
        self.differences = {kind: names for kind, names in differences.items() if names}
        lists = [f"{len(n)} {kind}: {', '.join(n)}" for kind, n in self.differences.items()]
        super().__init__("the tensors do not fit: " + "; ".join(lists))


def read(
    rules: Sequence[Rule], tensors: Mapping[str, np.ndarray], targets: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """Their tensors -> our arrays by path, float32. targets: path -> shape, all that is wanted.

    Raises Mismatch naming every tensor that is missing, unexpected or of the wrong shape.
    """
    arrays, missing, misshapen, used = {}, [], [], set()
    for rule in rules:
        names = _names(rule.theirs)
        used.update(names)
        if not rule.ours:
            continue
        absent = [name for name in names if name not in tensors]
        if absent:
            missing += absent
            continue
        paths = _names(rule.ours)
        stacked = not isinstance(rule.theirs, str)
        shapes = [targets[path][1:] if stacked else targets[path] for path in paths]
        layers = []
        for name in names:
            expected = _their_shape(rule.form, shapes)
            if not _is_float(tensors[name].dtype):
                misshapen.append(f"{name} {tensors[name].dtype} there, floating point expected")
                continue
            if tensors[name].shape != expected:
                misshapen.append(f"{name} {tensors[name].shape} there, {expected} expected")
                continue
            layers.append(rule.form.read(tensors[name].astype(np.float32), shapes))
        if len(layers) < len(names):
            continue
        for place, path in enumerate(paths):
            parts = [np.ascontiguousarray(layer[place]) for layer in layers]
            arrays[path] = np.stack(parts) if stacked else parts[0]
    differences = {
        "missing": missing,
        "unexpected": [name for name in tensors if name not in used],
        "misshapen": misshapen,
    }
    if any(differences.values()):
        raise Mismatch(differences)
    assert set(arrays) == set(targets), sorted(set(arrays) ^ set(targets))
    return arrays


def write(rules: Sequence[Rule], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our arrays by path -> their tensors: `read` backwards."""
    tensors, used = {}, set()
    for rule in rules:
        paths = _names(rule.ours)
        used.update(paths)
        if isinstance(rule.theirs, str):
            layers = {rule.theirs: [arrays[path] for path in paths]}
        else:
            layers = {
                name: [arrays[path][i] for path in paths] for i, name in enumerate(rule.theirs)
            }
        for name, ours in layers.items():
            tensors[name] = np.asarray(rule.form.write(ours), order="C")
    assert used == set(arrays), sorted(used ^ set(arrays))
    return tensors


def _is_float(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _their_shape(form: Form, shapes: Sequence[Shape]) -> Shape:
    # Strides of zero: the shape alone, however large the array.
    return form.write([np.broadcast_to(np.float32(0), shape) for shape in shapes]).shape
