"""Random weights and images that NumPy makes the same everywhere, and how outputs are compared."""

import re

import jax
import numpy as np

from vitjax import interop


def drawn(shapes, seed=0):
    """{name: random numbers} for {name: shape}; RandomState's are the same in every NumPy."""
    rng = np.random.RandomState(seed)
    return {name: draw(rng, name, shapes[name]) for name in sorted(shapes)}


def draw(rng, name, shape):
    """Random numbers fit for a parameter of that name and shape."""
    value = rng.normal(size=shape).astype(np.float32)
    last = name.rpartition(".")[2]
    if last.endswith("var"):
        return 1 + 0.2 * np.tanh(value)
    if last == "weight" and len(shape) == 1:  # the scale of a norm
        return 1 + 0.2 * value
    if last in ("gamma", "lambda1", "layer_scale", "gamma_1", "gamma_2"):
        return 0.5 + 0.1 * value
    if last.startswith("weight") and len(shape) > 1:
        return value / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    return 0.1 * value


def images(size, batch=1, seed=1):
    """[B, size, size, 3] float32, about as large as normalised pixels are."""
    return np.random.RandomState(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def ours(model, variables, x, layers=()):
    """(logits, Features) as NumPy arrays, jitted, in float32 with full matmul precision."""
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda variables, x: model.apply(variables, x, layers=layers))
        return jax.device_get(apply(variables, x))


def close(got, want, what=""):
    """The bounds of the project: max |difference| <= 1e-4, and 1e-5 of the largest value."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: {got.shape} here, {want.shape} there"
    difference = np.abs(got - want).max()
    largest = np.abs(want).max()
    assert largest > 1e-2, f"{what}: all zeros say nothing"
    bound = min(1e-4, 1e-5 * largest)
    print(f"{what}: max |difference| {difference:.1e}, largest value {largest:.2g}")
    assert difference <= bound, f"{what}: {difference:.2e} apart, largest value {largest:.2g}"


def nhwc(tensor):
    """[B, C, H, W] -> [B, H, W, C]."""
    return np.transpose(tensor, (0, 2, 3, 1))


def comes_back(tensors, layout, but=r"(?!)", **encoder):
    """In and out is bit-identical: every tensor, by name, apart from names that match `but`."""
    model, variables = interop.read(tensors, layout, **encoder)
    written, _ = interop.write(model.spec, variables, layout)
    kept = {name for name in tensors if not re.search(but, name)}
    assert set(written) == kept, sorted(set(written) ^ kept)
    for name in kept:
        assert written[name].shape == tensors[name].shape, name
        assert written[name].dtype == tensors[name].dtype, name
        np.testing.assert_array_equal(written[name], tensors[name], err_msg=name)
