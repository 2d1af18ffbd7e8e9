"""BiT ResNets: group norm and standardised kernels, in the two forms that have published weights.

"preact" is the ResNet V2 of "Big Transfer" (arXiv:1912.11370), "postact" big_vision's V1 of the
same sizes. Beyond the order of norm and convolution they differ in the padding at stride 2
(symmetric; SAME), the small numbers of both normalisations, and the border of the max pool.
"""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from vitjax.lookup import lookup
from vitjax.models.features import Encoder, Features
from vitjax.models.layers import check_rates, hide, require_key
from vitjax.models.precision import DTYPES
from vitjax.models.stack import REMAT
from vitjax.models.weight_standardised import (
    PostactUnit,
    StandardisedConv,
    add,
    group_norm,
    macs,
    over_root,
    postact_root,
    stages,
)
from vitjax.ops.batch import keep_batch_sharded
from vitjax.ops.device import device

# B batch, H x W map, C channels.

# Units per stage by depth: arXiv:1603.05027 for 50 to 200; 26 is big_vision's.
VARIANTS = {
    "26": (2, 2, 2, 2),
    "50": (3, 4, 6, 3),
    "101": (3, 4, 23, 3),
    "152": (3, 8, 36, 3),
    "200": (3, 24, 36, 3),
}


def _conv(features, size, stride=1, *, dtype, name):
    return StandardisedConv(features, size, stride, over_root, size // 2, dtype, name=name)


_norm = partial(group_norm, epsilon=1e-5)


class PreactUnit(nn.Module):
    """Bottleneck of ResNet V2 (arXiv:1603.05027, fig. 4e), the stride on its 3x3. Norm and ReLU
    come before each convolution, the projection of the shortcut after the first of them."""

    features: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x, rate=None):  # [B, H, W, C] -> [B, H / stride, W / stride, 4 features]
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(_norm, dtype=self.dtype)
        y = nn.relu(norm(x, "norm1"))
        if self.stride > 1 or x.shape[-1] != 4 * self.features:
            x = conv(4 * self.features, 1, self.stride, name="shortcut_conv")(y)
        y = conv(self.features, 1, name="conv1")(y)
        y = conv(self.features, 3, self.stride, name="conv2")(nn.relu(norm(y, "norm2")))
        y = conv(4 * self.features, 1, name="conv3")(nn.relu(norm(y, "norm3")))
        return keep_batch_sharded(add(x, y, rate, lambda: self.make_rng("dropout")))


def preact_root(images, width, *, dtype):
    """7x7 stride 2 and a max pool; called inside a compact module. No ReLU comes before the pool,
    so its border says something: zeros, as the published weights were trained (big_transfer, timm);
    big_vision's own copy has -inf there."""
    x = _conv(width, 7, 2, dtype=dtype, name="stem_conv")(images)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return keep_batch_sharded(nn.max_pool(x, (3, 3), (2, 2)))


FORMS = {"preact": (preact_root, PreactUnit), "postact": (postact_root, PostactUnit)}


class BiT(nn.Module):
    """Root, stages, in "preact" a last norm, global average; fields are settings of `create`."""

    form: str
    depths: tuple[int, ...]
    width: int
    mask_token: bool
    drop_path: float
    scan: bool
    remat: str
    dtype: Any

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        require_key(self, train, drop_path=self.drop_path)
        root, unit = FORMS[self.form]
        rates = None
        if train and self.drop_path:
            rates = jnp.asarray(np.linspace(0.0, self.drop_path, sum(self.depths)), jnp.float32)
        x = hide(self, root(images, self.width, dtype=self.dtype), mask)
        settings = {"scan": self.scan, "remat": self.remat, "dtype": self.dtype}
        maps = [x, *stages(unit, x, self.depths, self.width, rates, **settings)]
        wanted = {name: maps[layer_names(self.depths).index(name)] for name in layers}
        vectors = {name: map.mean(axis=(1, 2)) for name, map in wanted.items()}
        x = maps[-1]
        if self.form == "preact":
            x = nn.relu(_norm(x, "norm", dtype=self.dtype))
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return Features(x.mean(axis=(1, 2)), x, wanted, vectors, tokens)


def create(
    variant="R50x1",
    *,
    form="preact",
    mask_token=False,
    drop_path=0.0,
    scan=None,
    remat="none",
    dtype="float32",
    depths=None,
    width=None,
):
    """A BiT ResNet. Returns a `features.Encoder`; its layers are "stem", "stage_1", ...

    variant: a depth in VARIANTS and a multiplier of every channel count, as "R101x3"; depths
    (units of each stage) and width (channels of the stem, 64 times the multiplier) replace its
    numbers. form: "preact" or "postact". The layers of "preact" are what enters the next stage:
    the last norm is in pooled and patches alone. mask_token: whether `apply` takes a mask, see
    layers.hide. drop_path: stochastic depth of the last unit, linear from 0 at the first. scan:
    as in resnet.create, None scans except on a CPU. remat: a name in stack.REMAT. dtype:
    "float32" or "bfloat16" arithmetic; parameters are float32. Raises ValueError for bad
    values.
    """
    depths, width = size_of(variant, depths, width)
    if not depths or any(not isinstance(n, int) or n < 1 for n in depths):
        raise ValueError(f"encoder.depths is {depths}; expected units of each stage, all above 0")
    if not isinstance(width, int) or width < 1 or width % 32:
        raise ValueError(f"encoder.width is {width!r}; expected a multiple of 32, one per group")
    check_rates(drop_path=drop_path)
    lookup(FORMS, form, "encoder.form")
    lookup(REMAT, remat, "encoder.remat")
    compute = lookup(DTYPES, dtype, "encoder.dtype")
    scan = device()[0] != "cpu" if scan is None else scan
    return Encoder(
        name=f"bit {variant}",
        width=width * 2 ** (len(depths) + 1),
        stride=2 ** (len(depths) + 1),
        layers=layer_names(depths),
        network=BiT(form, depths, width, mask_token, drop_path, scan, remat, compute),
        macs=lambda image_size: macs(image_size, depths, width),
    )


def size_of(variant, depths=None, width=None):
    """(units of each stage, channels of the stem) of `create`'s settings with these names."""
    match = re.fullmatch(r"R(\d+)x([1-9]\d*)", variant)
    if not match:
        raise ValueError(
            f"encoder.variant is {variant!r}; expected a depth and a multiplier, as R50x1"
        )
    table = lookup(VARIANTS, match[1], "the depth in encoder.variant")
    return (
        table if depths is None else tuple(depths),
        64 * int(match[2]) if width is None else width,
    )


def layer_names(depths):
    return ("stem", *(f"stage_{index + 1}" for index in range(len(depths))))
