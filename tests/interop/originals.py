"""Models nobody here wrote, with random weights, run beside ours. Needs the `torch` extra."""

import contextlib
import re
from unittest import mock

import jax
import numpy as np
import pytest

from vitjax import interop

torch = pytest.importorskip("torch", reason="needs the torch extra: pip install vitjax[torch]")
torch.set_num_threads(2)


def package(name):
    """timm, torchvision or transformers. torchvision has no CPU build for every machine: its
    compiled operators are not needed here, so their absence is passed over."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("torch.library.register_fake", lambda name: lambda f: f))
        pytest.importorskip("torchvision", reason="needs the torch extra")
    return pytest.importorskip(name, reason="needs the torch extra: pip install vitjax[torch]")


def randomise(model, seed=0):
    """Every parameter and statistic away from its default, the scale of activations kept near 1.
    RandomState: its numbers are the same in every NumPy. Returns the model in evaluation mode."""
    rng = np.random.RandomState(seed)
    with torch.no_grad():
        for name, tensor in sorted(model.state_dict().items()):
            if not tensor.is_floating_point() or name.endswith("periods"):
                continue
            tensor.copy_(torch.from_numpy(draw(rng, name, tuple(tensor.shape))))
    return model.eval()


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


def tensors_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def images(size, batch=1, seed=1):
    """[B, size, size, 3] float32, about as large as normalised pixels are."""
    return np.random.RandomState(seed).normal(size=(batch, size, size, 3)).astype(np.float32)


def theirs(function, x):
    """function(images [B, 3, H, W]) of NHWC images, without gradients; a tree of NumPy arrays."""
    with torch.no_grad():
        out = function(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())
    return jax.tree.map(lambda t: t.numpy() if isinstance(t, torch.Tensor) else t, out)


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
        np.testing.assert_array_equal(written[name], tensors[name], err_msg=name)
