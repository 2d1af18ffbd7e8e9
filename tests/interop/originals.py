"""Models nobody here wrote, with random weights, run beside ours. Needs the `torch` extra."""

import jax
import pytest
from drawn import close, comes_back, draw, drawn, images, nhwc, ours

from tests.torch_packages import package

__all__ = ["close", "comes_back", "draw", "images", "nhwc", "ours", "package"]

torch = pytest.importorskip("torch", reason="needs the torch extra: pip install vitjax[torch]")
torch.set_num_threads(2)


def randomise(model, seed=0):
    """Every parameter and statistic away from its default. Returns it in evaluation mode."""
    state = model.state_dict()
    with torch.no_grad():
        for name, value in drawn(shapes_of(state), seed).items():
            state[name].copy_(torch.from_numpy(value))
    return model.eval()


def shapes_of(state):
    """Of what is random: counters stay 0, and periods of rotations what they are."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if tensor.is_floating_point() and not name.endswith("periods")
    }


def tensors_of(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def theirs(function, x):
    """function(images [B, 3, H, W]) of NHWC images, without gradients; a tree of NumPy arrays."""
    with torch.no_grad():
        out = function(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())
    return jax.tree.map(lambda t: t.numpy() if isinstance(t, torch.Tensor) else t, out)
