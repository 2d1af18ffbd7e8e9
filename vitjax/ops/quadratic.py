"""Attention by quadratic scores of the offset alone, and any convolution as such attention
(arXiv:1911.03584).

A head attends around a centre Delta, an offset in patches from query to key: the score of the
offset delta is -alpha |delta - Delta|^2. K x K heads with their centres on a K x K grid are then
the taps of a kernel.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.ops.attention import attention
from vitjax.ops.position import relative_bias

# B batch, h x w map, N = h * w tokens, C channels in, F channels out, K x K taps, H heads = K * K,
# D width of one head.

# From here on float32 has no digit left for what a head takes from beside its key: 4 exp(-alpha).
SHARP = 18.0


def centres(rows, columns):
    """[rows * columns, 2] float32: offsets (dy, dx) of a grid of heads about 0, row after row.

    An even side puts them between patches, as ConViT has it for 4 and 16 heads (arXiv:2103.10697,
    its code).
    """
    middle = np.array([rows - 1, columns - 1]) / 2
    return np.argwhere(np.ones((rows, columns))).astype(np.float32) - middle.astype(np.float32)


def quadratic_offsets(h, w):
    """[2h - 1, 2w - 1, 3] float32: r = (|delta|^2, dy, dx) of each offset delta from query to key,
    ordered as `position.relative_bias` wants it (entry [0, 0] is the key furthest down and right).

    Scores are linear in it: v . r with v = -alpha (1, -2 Delta) is -alpha |delta - Delta|^2 but for
    a constant of the head (arXiv:1911.03584, eq. 10).
    """
    dy, dx = -np.mgrid[1 - h : h, 1 - w : w]
    return jnp.asarray(np.stack([dy**2 + dx**2, dy, dx], axis=-1), jnp.float32)


def linear_form(centres, alpha):
    """v of `quadratic_offsets`, [3, H] float32. centres: [H, 2]; alpha: of all heads, or [H]."""
    alpha = np.broadcast_to(np.float32(alpha), len(centres))
    return np.stack([-alpha, *(2 * alpha * np.asarray(centres, np.float32).T)]).astype(np.float32)


def quadratic_bias(centres, alpha, h, w):
    """-alpha |delta - Delta_h|^2 as a bias on the scores of an h x w map: [H, N, N] float32.

    centres: [H, 2] float, Delta_h = (dy, dx) in patches. alpha: [H] or a number.
    """
    delta = quadratic_offsets(h, w)[..., None, 1:]  # [2h - 1, 2w - 1, 1, 2]
    away = delta - jnp.asarray(centres, jnp.float32)[None, None]
    alpha = jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), away.shape[2])
    return relative_bias(-alpha[None, None] * (away**2).sum(-1), h, w)


class Layer(NamedTuple):
    """Parameters of attention that looks at positions alone: queries and keys are zero.

    A pytree: it can be trained from here, like any other.
    """

    centres: jnp.ndarray  # [H, 2]
    alpha: jnp.ndarray  # [H]
    value: jnp.ndarray  # [C, H, D]
    out: jnp.ndarray  # [H, D, F]
    bias: jnp.ndarray  # [F]


def init_as_convolution(kernel, bias=None, *, alpha=20.0, head_width=None):
    """The Layer that is a given convolution: one head for each tap (arXiv:1911.03584, theorem 1).

    kernel: [K, L, C, F], as jax.lax.conv_general_dilated has it ("HWIO"; taps are not flipped);
    bias: [F], zeros when None. Conditions: as many heads as taps; heads as wide as the fewer of C
    and F, since a head passes on no more channels than its width (head_width: more, the rest is
    zero); alpha at least SHARP for the last digits of float32, the relative error is about
    4 exp(-alpha). So sharp a softmax has no gradient to its centres: train from alpha 1 or 2.
    Raises ValueError for heads that are too narrow or an alpha not above 0.

    `attend` says what it does at borders. Strides: take every s-th place of what comes out.
    """
    kernel = jnp.asarray(kernel, jnp.float32)
    K, L, C, F = kernel.shape
    narrow = min(C, F)
    D = narrow if head_width is None else head_width
    if narrow > D:
        raise ValueError(
            f"head_width={D}: a kernel of {C} to {F} channels needs heads of at least {narrow}"
        )
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: expected above 0, and at least {SHARP:g} to be exact")
    slices = kernel.reshape(K * L, C, F)
    if C <= F:
        value, out = jnp.broadcast_to(jnp.eye(C)[:, None], (C, K * L, C)), slices
    else:
        value, out = slices.swapaxes(0, 1), jnp.broadcast_to(jnp.eye(F), (K * L, F, F))
    return Layer(
        centres=jnp.ceil(jnp.asarray(centres(K, L))),  # "SAME" has the longer half behind
        alpha=jnp.full(K * L, alpha, jnp.float32),
        value=jnp.pad(value, ((0, 0), (0, 0), (0, D - narrow))),
        out=jnp.pad(out, ((0, 0), (0, D - narrow), (0, 0))),
        bias=jnp.zeros(F) if bias is None else jnp.asarray(bias, jnp.float32),
    )


def attend(layer, x, *, padding=0, implementation=None):
    """Attention by position alone: [B, h, w, C] -> [B, h, w, F].

    padding: rows and columns of zeros around the map, which attend and are attended to, and are cut
    off again. For a layer of `init_as_convolution` K // 2 makes it the convolution with padding
    "SAME". Without any, a head whose key would be outside takes the nearest one inside: the
    convolution of the map with its border repeated. Leave class tokens out: they have no place.
    implementation: see ops.attention.
    """
    around = [(padding, padding)] * 2
    x = jnp.pad(x, [(0, 0), *around, (0, 0)])
    B, h, w, _ = x.shape
    tokens = x.reshape(B, h * w, -1)
    highest = "highest"  # the theorem is exact: no product is to round to bfloat16 on its way
    v = jnp.einsum("bnc,chd->bnhd", tokens, layer.value.astype(x.dtype), precision=highest)
    # Behind the barrier XLA does not know that they are zero: on the CPU, what jaxlib 0.12.0.1 made
    # of a product of two constants was at times NaN.
    nothing = jax.lax.optimization_barrier(jnp.zeros_like(v))
    scores = quadratic_bias(layer.centres, layer.alpha, h, w)
    y = attention(nothing, nothing, v, bias=scores, implementation=implementation)
    y = jnp.einsum("bnhd,hdf->bnf", y, layer.out.astype(x.dtype), precision=highest)
    y = (y + layer.bias.astype(x.dtype)[None, None]).reshape(B, h, w, -1)
    return y[:, padding : h - padding, padding : w - padding]
