"""Small layers that several encoders share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.batch import on_batch_shards, samples_of_device

# B batch, N tokens, D width, M hidden width.

# What stands between the two layers of an MLP; "swiglu" also has a third layer, the gate.
ACTIVATIONS = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "swiglu": nn.silu,
}


class MLP(nn.Module):
    """Two layers with a GELU between (arXiv:2010.11929), or SwiGLU: silu(gate x) * (up x) between
    (arXiv:2002.05202, eq. 6). activation: a name in ACTIVATIONS."""

    hidden: int
    activation: str = "gelu_tanh"
    dropout: float = 0.0
    train: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):  # [B, N, D]
        def dense(features, name):
            return nn.Dense(
                features,
                kernel_init=nn.initializers.xavier_uniform(),
                bias_init=nn.initializers.normal(1e-6),
                dtype=self.dtype,
                name=name,
            )

        activate = ACTIVATIONS[self.activation]
        y = dense(self.hidden, "up")(x)  # [B, N, M]
        if self.activation == "swiglu":
            y = activate(dense(self.hidden, "gate")(x)) * y
        else:
            y = activate(y)
        y = nn.Dropout(self.dropout, deterministic=not self.train)(y)
        return dense(x.shape[-1], "down")(y)


def layer_norm(x, *, dtype, name, eps=1e-6):
    """LayerNorm in float32; returns dtype. Called inside a compact module."""
    return nn.LayerNorm(epsilon=eps, name=name)(x.astype(jnp.float32)).astype(dtype)


def layer_scale(module, x, start, name):
    """Scale each channel by a learned number (arXiv:2103.17239, sec. 2.1). Called inside a compact
    module, given as `module`. start: the first value of all."""
    init = nn.initializers.constant(start)
    return x * module.param(name, init, x.shape[-1:]).astype(x.dtype)[(None,) * (x.ndim - 1)]


def hide(module, x, mask):
    """Put a learned token where the mask is True. Called inside a compact module, given as
    `module`, whose field mask_token says whether there is one.

    x: [B, H, W, C]. mask: bool [B, h, w] or None, h and w the grid of the last map: each of its
    cells covers H / h x W / w places of x (the last ones more, where it does not divide), all of
    which become the token. What convolutions before x have carried over the border of a cell stays.
    Returns x's shape. Raises ValueError for a mask without a token, or of another grid.
    """
    if not module.mask_token:
        if mask is not None:
            raise ValueError("mask= needs a mask token: set encoder.mask_token to True")
        return x
    token = module.param("mask_token", nn.initializers.normal(0.02), x.shape[-1:])
    if mask is None:
        return x
    if any(side < cells for side, cells in zip(x.shape[1:3], mask.shape[1:], strict=True)):
        raise ValueError(f"mask has the grid {mask.shape[1:]}, finer than the map {x.shape[1:3]}")
    for axis in (1, 2):
        side, cells = x.shape[axis], mask.shape[axis]
        mask = jnp.take(mask, np.minimum(np.arange(side) // (side // cells), cells - 1), axis=axis)
    return jnp.where(mask[..., None], token.astype(x.dtype)[None, None, None], x)


def refuse_mask(name, mask):
    """Raise ValueError where a network that has no use for it is given a mask."""
    if mask is not None:
        raise ValueError(
            f"encoder.name {name} takes no mask: use encoder.name vit with encoder.mask_token"
        )


def require_key(module, train, **rates):
    """Raise ValueError, naming the settings, where training has a rate above 0 and no key."""
    names = " or ".join(f"encoder.{name}" for name in rates)
    if train and any(rates.values()) and not module.has_rng("dropout"):
        raise ValueError(f"training with {names} above 0 needs key=, got None")


def check_counts(size) -> None:
    """Raise ValueError, naming the config key, unless all fields are whole numbers above 0."""
    for field, n in size._asdict().items():
        if not isinstance(n, int) or n < 1:
            raise ValueError(f"encoder.{field}={n!r}: expected a whole number above 0")


def check_rates(**rates) -> None:
    """Raise ValueError, naming the config key, unless all are rates of dropping."""
    for key, value in rates.items():
        if not 0 <= value < 1:
            raise ValueError(f"encoder.{key} is {value}; expected a rate from 0 up to below 1")


def check_whole_patches(images, patch):
    """Raise ValueError unless both sides of images [B, H, W, 3] are multiples of `patch` pixels."""
    for side in images.shape[1:3]:
        below = side // patch * patch
        if side == 0 or below != side:
            nearest = f"{below} or {below + patch}" if below else f"{patch}"
            raise ValueError(
                f"image size {side} is not a multiple of the patch size {patch}: set views.size to "
                f"{nearest}, or change the patch in encoder.variant"
            )


def embed_patches(images, patch, width, *, dtype, name):
    """Cut images into patches and project each one: a convolution whose stride is its size.

    Called inside a compact module. images: [B, H, W, 3]; returns [B, H / patch, W / patch, width].
    Raises ValueError unless both sides are multiples of `patch` (pixels).
    """
    check_whole_patches(images, patch)
    window = (patch, patch)
    return nn.Conv(width, window, window, padding="VALID", dtype=dtype, name=name)(images)


class DepthwiseConv(nn.Module):
    """Each channel by a kernel of its own, padded by size // 2 on every side."""

    size: int
    stride: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):  # [B, H, W, C]
        C, k = x.shape[-1], self.size
        kernel = self.param("kernel", self.kernel_init, (k, k, 1, C))

        def convolve(x, kernel):
            return jax.lax.conv_general_dilated(
                x,
                kernel,
                (self.stride, self.stride),
                [(k // 2, k // 2)] * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=C,
            )

        y = on_batch_shards(convolve, x.astype(self.dtype), kernel.astype(self.dtype))
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (C,))
        return y + bias.astype(self.dtype)[None, None, None]


def drop_path(x, rate, key):
    """Stochastic depth (arXiv:1603.09382): drop whole samples of a residual branch.

    x: [B, ...]. rate: chance that a sample becomes zero, a float32 scalar (may be traced), below 1.
    Survivors are divided by 1 - rate, so the mean is kept.
    """
    keep = jnp.float32(1.0) - rate
    alive = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return jnp.where(alive, x / keep.astype(x.dtype), 0.0)


SUBSET_GROUP = 32  # samples that a subset is drawn from at most
SUBSET_OFF = 0.05  # by which a rate may be missed


def subset_group(batch, rate):
    """(samples in a group, those kept of them): of the divisors of the batch, up to SUBSET_GROUP,
    the largest of those that come nearest to the rate; of those within a device's samples if one
    of them does. Raises ValueError where the rate is missed by more than SUBSET_OFF; a single
    sample is always kept."""
    for samples in (samples_of_device(batch), batch):
        divisors = [n for n in range(1, SUBSET_GROUP + 1) if samples % n == 0]
        found = [(n, max(1, round(n * (1 - rate)))) for n in divisors]
        group, kept = min(found, key=lambda pair: (abs(1 - pair[1] / pair[0] - rate), -pair[0]))
        left_out = 1 - kept / group
        if batch == 1 or abs(left_out - rate) <= SUBSET_OFF:
            return group, kept
    raise ValueError(
        f"encoder.drop_path={rate} of a batch of {batch} with drop_path_form='subset' would be "
        f"{left_out:.2f}: take a batch_size with a divisor from 10 to {SUBSET_GROUP}, or "
        "drop_path_form='sample'"
    )


def add_to_subset(branch, x, rate, key):
    """x + branch(x) where the branch runs on a part of the batch only (DINOv2's stochastic depth,
    arXiv:2304.07193, sec. 5): what is dropped is not computed.

    x: [B, ...]. rate: share of the samples left out, a Python number below 1. The batch is seen as
    groups of neighbours on one device (`subset_group`), so that nothing has to move; a mesh changes
    the draw only where its devices hold too few samples for a group. In each group the same number
    of samples, at least one, is drawn without replacement, and what they add is scaled to keep the
    mean. Raises ValueError where no group leaves out nearly that share.
    """
    B, rest = x.shape[0], x.shape[1:]
    group, kept = subset_group(B, rate)
    order = jnp.argsort(jax.random.uniform(key, (B // group, group)), axis=1)[:, :kept]
    # As products with ones and zeros, which are exact: gathers and scatters would bring the whole
    # batch to every device.
    ones = jax.nn.one_hot(order, group, dtype=x.dtype)  # [B // group, kept, group]
    grouped = x.reshape(B // group, group, -1)
    exact = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    chosen = exact("gkn,gnd->gkd", ones, grouped)
    added = branch(chosen.reshape(-1, *rest)).reshape(chosen.shape)
    added = added * jnp.asarray(group / kept, added.dtype)
    return (grouped + exact("gkn,gkd->gnd", ones, added)).reshape(x.shape)
