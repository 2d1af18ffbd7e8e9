"""The one door to attention: what it is, and the choice of the code that computes it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from vitjax.ops import flash_gpu, flash_tpu
from vitjax.ops.batch import on_shards
from vitjax.ops.device import device

# B batch, N queries, M keys (M = N in self-attention), H heads, D width of one head.

MASKED = -1e30  # finite: a row that sees nothing is no NaN
HOPPER = ("H100", "H200", "H800", "H20", "GH200")

# What None takes, the first that can. docs/attention.md has the figures behind each row.
CHOICES = {
    # A tenth of XLA's estimated cycles at N = 197, and no table [N, N] in memory.
    "tpu": ("flash", "reference"),
    # cuDNN's speed is published; the Hopper kernel, never timed yet, takes what cuDNN refuses:
    # segments, and a bias of odd length.
    "gpu": ("cudnn", "flash", "reference"),
    "cpu": ("reference",),
}


class Case(NamedTuple):
    """What kernels may refuse. shape: of q. bias_heads: 0 without a bias, else 1 or H, or -1
    where it differs between images."""

    shape: tuple[int, int, int, int]
    keys: int
    dtype: jnp.dtype
    bias_heads: int
    segments: bool


def attention(q, k, v, *, bias=None, segments=None, scale=None, implementation=None):
    """softmax(scale * q k^T + bias) v, per head (arXiv:1706.03762, eq. 1).

    q: [B, N, H, D]; k, v: [B, M, H, D]. bias: broadcastable to [B, H, N, M], added to the scaled
    scores. segments: int32 [B, N], with M = N: tokens attend within equal ids, and -1 attends to
    nothing and gives zeros. scale: D ** -0.5 when None. implementation: a name in IMPLEMENTATIONS,
    or None for the first of CHOICES that can. Scores and softmax are float32; returns [B, N, H, D]
    in the dtype of q. On the mesh of `jax.set_mesh`, kernels run on each device's part of the batch
    and heads. Raises ValueError for an unknown implementation, or one that cannot do this.
    """
    bias = None if bias is None else _four_dims(bias)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    case = Case(q.shape, k.shape[1], q.dtype, _bias_heads(bias), segments is not None)
    function = IMPLEMENTATIONS[choose(case, implementation)].function
    return function(q, k, v, bias, segments, scale)


def attention_packed(qkv, *, bias=None, segments=None, scale=None, implementation=None):
    """`attention` of a fused projection [B, N, 3, H, D], as the next one wants it: [B, N, H * D].

    The flash kernels read and write these where they lie: nothing is transposed or padded.
    """
    B, N, _, H, D = qkv.shape
    bias = None if bias is None else _four_dims(bias)
    scale = D**-0.5 if scale is None else scale
    case = Case((B, N, H, D), N, qkv.dtype, _bias_heads(bias), segments is not None)
    name = choose(case, implementation)
    if name == "flash":
        return _flash((qkv,), bias, segments, scale)
    q, k, v = (qkv[:, :, part] for part in range(3))
    return IMPLEMENTATIONS[name].function(q, k, v, bias, segments, scale).reshape(B, N, H * D)


def choose(case, implementation=None):
    """The name of what computes `case`.

    One that was asked for by name does it or raises ValueError with the reason; None takes the
    first of CHOICES that can, and logs once what stood in the way of those before it.
    """
    if implementation is not None:
        if implementation not in IMPLEMENTATIONS:
            known = ", ".join(IMPLEMENTATIONS)
            raise ValueError(
                f"attention implementation is {implementation!r}; expected None or one of {known}"
            )
        reason = IMPLEMENTATIONS[implementation].refuses(case)
        if reason:
            raise ValueError(f"attention implementation {implementation!r} cannot run: {reason}")
        return implementation
    platform, _ = device()
    for name in CHOICES.get(platform, ("reference",)):
        reason = IMPLEMENTATIONS[name].refuses(case)
        if not reason:
            return name
        _say_once(f"attention goes without {name}: {reason}")
    raise AssertionError("the reference refuses nothing")


def attention_weights(q, k, *, bias=None, segments=None, scale=None):
    """softmax(scale * q k^T + bias): how much of each value every query takes.

    q: [B, N, H, D]; k: [B, M, H, D]; the rest as in `attention`. Returns [B, H, N, M] float32, rows
    sum to 1 (to 0 where a query sees nothing). The whole matrix is held: for looking at, and for
    the reference.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * scale
    if bias is not None:
        scores = scores + _four_dims(bias)
    if segments is None:
        return jax.nn.softmax(scores, axis=-1)
    seen = _seen(segments)
    return jnp.where(seen, jax.nn.softmax(jnp.where(seen, scores, MASKED), axis=-1), 0.0)


@functools.cache
def _say_once(message):
    logging.warning(message)


def _four_dims(bias):
    return bias.astype(jnp.float32).reshape((1,) * (4 - bias.ndim) + bias.shape)


def _bias_heads(bias):
    if bias is None:
        return 0
    return -1 if bias.shape[0] > 1 else bias.shape[1]


def _seen(segments):
    """[B, 1, N, N] bool: who sees whom."""
    ids = segments[:, None]
    return (ids[..., :, None] == ids[..., None, :]) & (ids >= 0)[..., None]


def _reference(q, k, v, bias, segments, scale):
    weights = attention_weights(q, k, scale=scale, bias=bias, segments=segments).astype(v.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v).astype(q.dtype)


def _xla(q, k, v, bias, segments, scale):
    mask = None if segments is None else _seen(segments)
    # Written for standard promotion: under strict its bfloat16 form does not trace (and still has
    # no gradient, whose rule runs outside this block).
    with jax.numpy_dtype_promotion("standard"):
        out = jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, implementation="xla")
    return out if segments is None else jnp.where((segments >= 0)[..., None, None], out, 0)


def _cudnn(q, k, v, bias, segments, scale):
    def run(q, k, v, *bias):
        bias = bias[0].astype(q.dtype) if bias else None
        return at_even_lengths(q, k, v, bias, scale, "cudnn")

    # It cuts heads by no rule of its own.
    arrays, places = [q, k, v], ["b.h.", "b.h.", "b.h."]
    if bias is not None:
        arrays.append(bias)
        places.append(".h.." if bias.shape[1] > 1 else "....")
    return on_shards(run, arrays, places, "b.h.", heads=q.shape[2])


def at_even_lengths(q, k, v, bias, scale, implementation):
    """jax's attention with a token more where a length is odd, which nobody sees: of odd lengths
    jax has no gradient through cuDNN, with a bias or without (0.10.2 to 0.12.0.1)."""
    lengths = [x.shape[1] for x in (q, k)]
    seen = {}
    if any(length % 2 for length in lengths):
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        names = "query_seq_lengths", "key_value_seq_lengths"
        for name, length in zip(names, lengths, strict=True):
            seen[name] = jnp.full(len(q), length, jnp.int32)
    out = jax.nn.dot_product_attention(
        q, k, v, bias, scale=scale, implementation=implementation, **seen
    )
    return out[:, : lengths[0]]


def _flash(parts, bias, segments, scale):
    """parts: (qkv [B, N, 3, H, D],) -> [B, N, H * D], or (q, k, v) [B, N, H, D] -> the same."""
    packed = len(parts) == 1
    N, heads = parts[0].shape[1], parts[0].shape[-2]
    platform, _ = device()
    kernels = flash_gpu if platform == "gpu" else flash_tpu
    has_bias = bias is not None

    def run(*arrays):
        arrays = list(arrays)
        given = [arrays.pop(0) for _ in parts]
        bias = arrays.pop(0) if has_bias else None
        ids = arrays.pop(0) if arrays else None
        flash = kernels.flash_packed if packed else kernels.flash
        return flash(*given, bias, ids, scale)

    arrays, places = list(parts), ["b..h." if packed else "b.h."] * len(parts)
    if has_bias:
        arrays.append(jnp.broadcast_to(bias[0], (bias.shape[1], N, N)))
        places.append("h.." if bias.shape[1] > 1 else "...")
    if segments is not None:
        arrays.append(segments)
        places.append("b.")
    return on_shards(run, arrays, places, "b.h" if packed else "b.h.", heads=heads)


def _cudnn_refuses(case):
    platform, kind = device()
    if platform != "gpu" or "NVIDIA" not in kind:
        return f"cuDNN is for GPUs of NVIDIA, and this is for {kind}"
    if case.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN takes bfloat16 and float16, not {jnp.dtype(case.dtype).name}"
    if case.shape[-1] % 8 or case.shape[-1] > 128:
        return f"cuDNN takes heads of 8, 16, ... 128, not of {case.shape[-1]}"
    if case.segments:
        return "cuDNN, as jax offers it, has no segments"
    if case.bias_heads < 0:
        return "cuDNN differentiates no bias that differs between images"
    if case.bias_heads and (case.shape[1] % 2 or case.keys % 2):
        return f"cuDNN differentiates a bias of even sides only, not {case.shape[1]}x{case.keys}"
    return ""


def _flash_refuses(case):
    platform, kind = device()
    if case.keys != case.shape[1]:
        return f"the flash kernels are for self-attention, not {case.shape[1]} x {case.keys} tokens"
    if case.bias_heads < 0:
        return "the flash kernels take one bias for all images"
    if platform != "gpu":
        return flash_tpu.supports(case.shape, case.dtype, case.bias_heads)
    if not any(name in kind for name in HOPPER):
        return f"the GPU kernel is for Hopper, and this is for {kind}"
    return flash_gpu.supports(case.shape, case.dtype)


class Implementation(NamedTuple):
    """function(q, k, v, bias [B or 1, H or 1, N, M] or None, segments or None, scale);
    refuses(case): the reason, "" where there is none."""

    function: callable
    refuses: callable


IMPLEMENTATIONS = {
    "reference": Implementation(_reference, lambda case: ""),
    "xla": Implementation(_xla, lambda case: ""),
    "cudnn": Implementation(_cudnn, _cudnn_refuses),
    # On a CPU the TPU kernel is interpreted: for tests.
    "flash": Implementation(lambda q, k, v, *rest: _flash((q, k, v), *rest), _flash_refuses),
}
