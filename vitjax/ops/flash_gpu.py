"""Attention on Hopper: a Mosaic GPU kernel for any length, with bias and segments."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from vitjax.ops.flash_gpu_backward import backward
from vitjax.ops.flash_gpu_tiles import (
    LOG2E,
    MASKED,
    TILE,
    Operands,
    Plan,
    down,
    mosaic,
    per_row,
    product,
    rows,
    zeros,
)

# B batch, N tokens, H heads, D width of one head.


def supports(shape, dtype):
    """Why q, k and v of this shape [B, N, H, D] and dtype cannot be had; "" when they can."""
    if mosaic() is None:
        return f"the Hopper kernel needs absl-py and jax 0.11.2 or newer, not {jax.__version__}"
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"the Hopper kernel takes bfloat16 and float16, not {jnp.dtype(dtype).name}"
    if shape[-1] % 8 or shape[-1] > 128:
        return f"the Hopper kernel takes heads of 8, 16, ... 128, not of {shape[-1]}"
    return ""


def flash(q, k, v, bias, segments, scale):
    """softmax(scale * q k^T + bias) v within segments (arXiv:2205.14135), for one device.

    q, k, v: [B, N, H, D] of one dtype. bias: None or [Hb, N, N], Hb 1 or H. segments: None or
    int32 [B, N]: tokens attend within equal ids, and -1 attends to nothing and gives zeros.
    Returns [B, N, H, D]. A row whose every score is -inf gives zeros. ValueError where `supports`
    has a reason.
    """
    _check(q.shape, q.dtype)
    return _flash((q, k, v), bias, segments, float(scale))


def flash_packed(qkv, bias, segments, scale):
    """`flash` of a fused projection [B, N, 3, H, D], read where it lies; returns [B, N, H * D]."""
    B, N, _, H, D = qkv.shape
    _check((B, N, H, D), qkv.dtype)
    return _flash((qkv,), bias, segments, float(scale)).reshape(B, N, H * D)


def _check(shape, dtype):
    reason = supports(shape, dtype)
    if reason:
        raise ValueError(reason)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _flash(parts, bias, segments, scale):
    return forward(parts, padded_bias(bias), padded_segments(segments), scale)[0]


def _flash_forward(parts, bias, segments, scale):
    out, lse = forward(parts, padded_bias(bias), padded_segments(segments), scale)
    return out, (parts, bias, segments, out, lse)


def _flash_backward(scale, residuals, d_out):
    parts, bias, segments, out, lse = residuals
    d_parts, d_bias = backward(
        parts, padded_bias(bias), padded_segments(segments), out, lse, d_out, scale
    )
    if bias is not None:
        N = bias.shape[-1]
        d_bias = d_bias[:, :N, :N].astype(bias.dtype)
    return d_parts, d_bias, None


_flash.defvjp(_flash_forward, _flash_backward)


def padded_bias(bias):
    """[Hb, N, N] in whole tiles, float32 (rows of odd length cannot be copied, only loaded)."""
    if bias is None:
        return None
    more = -bias.shape[-1] % TILE
    return jnp.pad(bias.astype(jnp.float32), ((0, 0), (0, more), (0, more)))


def padded_segments(segments):
    """[B, N] in whole tiles; what is added belongs to no segment."""
    if segments is None:
        return None
    return jnp.pad(segments, ((0, 0), (0, -segments.shape[-1] % TILE)), constant_values=-1)


def forward(parts, bias, segments, scale):
    """(out [B, N, H, D], lse [B, H, N in whole tiles] float32, the log2 of the sum of 2^score).

    parts, bias, segments: as `Operands`. One block has one head of one image: keys and values lie
    in shared memory, the warpgroups take the tiles of queries.
    """
    given = Operands(parts, bias, segments)
    plan = Plan(given, own=1)
    B, N, H, D = given.shape

    def body(*refs):
        given.bind(refs)
        plan.bind(refs[given.count + 2 :])
        out, lse = refs[given.count : given.count + 2]
        b, h = lax.axis_index("batch"), lax.axis_index("head")
        keys, values, queries = plan.shared[0], plan.shared[1], plan.own[0]

        def shared_tile(tile):
            return given.part(1, b, tile, h), given.part(2, b, tile, h)

        def own_tile(tile, over_shared, mine):
            plan.stage([(given.part(0, b, tile, h), queries)])

            def attend(slot, other, carry):
                total, peak, acc = carry
                s = product(queries, keys.at[slot].T) * (scale * LOG2E)
                s = given.masked(given.biased(s, h, tile, other), b, tile, other)
                new = jnp.maximum(peak, s.max(axis=1))
                p = jnp.exp2(s - down(new))
                shrink = jnp.exp2(peak - new)
                # wgmma need not add: with the product by `shrink` it is one instruction anyway.
                more = plan.times(p.astype(given.dtype), values.at[slot])
                acc = acc * down(shrink, given.width) + more
                return total * shrink + p.sum(axis=1), new, acc

            start = per_row(0.0), per_row(MASKED), zeros(given.width)
            total, peak, acc = over_shared(attend, start)
            some = peak > MASKED / 2  # else no key is in the segment of this query
            acc = acc * down(jnp.where(some, 1 / total, 0.0), given.width)
            log = jnp.where(some, peak + jnp.log(total) * LOG2E, -MASKED)

            @pl.when(mine)
            def _():
                lse[b, h, rows(tile)] = log
                plan.write([(acc, given.tile(out, b, tile, h))])

        plan.run(shared_tile, own_tile)

    types = (
        jax.ShapeDtypeStruct((B, N, H, D), given.dtype),
        jax.ShapeDtypeStruct((B, H, plan.tiles * TILE), jnp.float32),
    )
    return plan.kernel(body, types)(*given.arrays)
