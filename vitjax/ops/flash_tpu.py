"""Attention for TPU cores, one pass over scores that never leave the core (Mosaic).

After arXiv:2205.14135, for the lengths of images: all keys of a head lie in vector memory, so no
running maximum is corrected and no length need be a multiple of a block. Scores are held with keys
down and queries across (`flash_tpu_blocks.scores`).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vitjax.ops import flash_tpu_backward, flash_tpu_long
from vitjax.ops import flash_tpu_blocks as blocks

# B batch, N tokens, H heads, D width of one head; U lanes of a unit of heads, C queries of a chunk.

DTYPES = (jnp.float32, jnp.bfloat16)


def supports(shape, dtype, bias_heads=0):
    """Why attention over q [B, N, H, D] cannot run here; "" where it can.

    bias_heads: 0 without a bias, else 1 or H.
    """
    batch, tokens, heads, width = shape
    if dtype not in DTYPES:
        return f"dtype is {jnp.dtype(dtype).name}; the TPU kernel takes float32 and bfloat16"
    if width % 8 or not 8 <= width <= 256:
        return f"head width is {width}; the TPU kernel takes multiples of 8 up to 256"
    if bias_heads not in (0, 1, heads):
        return f"bias has {bias_heads} heads; the TPU kernel takes 1 or {heads}"
    if all(plans(batch, tokens, heads, w, dtype, bias_heads) is None for w in _widths(width)):
        return f"{tokens} tokens do not fit the core's vector memory ({blocks.vmem_bytes()} B)"
    return ""


def plans(batch, tokens, heads, width, dtype, bias_heads=0):
    """(forward, backward) of `flash_tpu_blocks.make_plans` for the core that is compiled for."""
    itemsize = jnp.dtype(dtype).itemsize
    budget = blocks.vmem_bytes()
    return blocks.make_plans(batch, tokens, heads, width, itemsize, bias_heads, budget)


def _widths(width):
    """A head's own width, and that of the lanes it needs alone: few heads fit a small memory."""
    return (width, blocks.padded(width, blocks.LANES))


def flash(q, k, v, bias, segments, scale):
    """softmax(scale * q k^T + bias) v, per head: [B, N, H, D] in the dtype of q.

    q, k, v: [B, N, H, D], float32 or bfloat16, all alike. bias: None or float [Hb, N, N], Hb 1 or
    H; its gradient is summed over the batch. segments: None or int32 [B, N]: tokens attend within
    equal ids, and -1 attends to nothing and gives zeros. Raises ValueError with the reason of
    `supports`. A value that is not finite spreads to heads that share its 128 lanes.
    """
    batch, tokens, heads, width = q.shape
    flat = (batch, tokens, heads * width)
    parts = tuple(x.reshape(flat) for x in (q, k, v))
    return _checked(parts, bias, segments, scale, heads).reshape(q.shape)


def flash_packed(qkv, bias, segments, scale):
    """`flash` of a fused projection [B, N, 3, H, D], as the next one wants it: [B, N, H * D].

    The kernel reads q, k and v where they lie; only where no number of heads fills whole blocks of
    128 lanes (3 heads of 64) are they cut out first.
    """
    batch, tokens, _, heads, width = qkv.shape
    packed = qkv.reshape(batch, tokens, 3 * heads * width)
    parts = (packed,) if heads * width % blocks.LANES == 0 else tuple(jnp.split(packed, 3, axis=2))
    return _checked(parts, bias, segments, scale, heads)


def _checked(parts, bias, segments, scale, heads):
    batch, tokens, columns = parts[-1].shape
    width = columns // (heads * (3 if len(parts) == 1 else 1))
    bias_heads = 0 if bias is None else bias.shape[0]
    reason = supports((batch, tokens, heads, width), parts[0].dtype, bias_heads)
    if reason:
        raise ValueError(reason)
    for wide in _widths(width):
        if plans(batch, tokens, heads, wide, parts[0].dtype, bias_heads) is not None:
            break
    if wide == width:
        return _attention(parts, bias, segments, float(scale), heads)
    parts = jnp.split(parts[0], 3, axis=2) if len(parts) == 1 else parts
    heads_apart = ((0, 0), (0, 0), (0, 0), (0, wide - width))
    padded = (
        jnp.pad(x.reshape(batch, tokens, heads, width), heads_apart).reshape(batch, tokens, -1)
        for x in parts
    )
    out = _attention(tuple(padded), bias, segments, float(scale), heads)
    out = out.reshape(batch, tokens, heads, wide)[..., :width]
    return out.reshape(batch, tokens, heads * width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _attention(parts, bias, segments, scale, heads):
    return _attention_forward(parts, bias, segments, scale, heads)[0]


def _attention_forward(parts, bias, segments, scale, heads):
    batch, tokens, columns = parts[-1].shape
    columns = columns // 3 if len(parts) == 1 else columns
    plans = _plans_of(batch, tokens, columns, parts[0].dtype, bias, heads)
    if plans[0].tiles > 1:
        out, lse = flash_tpu_long.forward(plans[0], parts, bias, segments, scale, columns)
        return out, (parts, bias, segments, lse, out)
    out, lse = _forward(plans[0], parts, bias, segments, scale, columns)
    return out, (parts, bias, segments, lse, None)


def _attention_backward(scale, heads, kept, grad):
    parts, bias, segments, lse, out = kept
    plan = _plans_of(*grad.shape, grad.dtype, bias, heads)[1]
    if plan.tiles > 1:
        gradients = flash_tpu_long.backward(plan, parts, bias, segments, scale, lse, out, grad)
    else:
        gradients = flash_tpu_backward.backward(plan, parts, bias, segments, scale, lse, grad)
    return *gradients, None


_attention.defvjp(_attention_forward, _attention_backward)


def _plans_of(batch, tokens, columns, dtype, bias, heads):
    bias_heads = 0 if bias is None else bias.shape[0]
    return plans(batch, tokens, heads, columns // heads, dtype, bias_heads)


def _forward(plan, parts, bias, segments, scale, columns):
    """parts: (qkv [B, N, 3 H D],) or three [B, N, H D]. Returns out [B, N, H D], lse.

    lse: [B, H, 1, reach] float32, the base-2 logarithm of each query's sum of powers, infinite
    where it sees nothing; the dimension of 1 is what lets a block hold any number of heads.
    """
    batch, tokens = parts[0].shape[:2]
    dtype = parts[0].dtype
    # A bias block stays while the batch goes by.
    names = "bg" if bias is None else "gb"
    sizes = {"b": batch // plan.images, "g": plan.groups}
    queries, _, _, row, _ = blocks.specs(plan, names)
    operands, in_specs = blocks.operands(plan, parts, bias, segments, names)
    return pl.pallas_call(
        functools.partial(_kernel, plan, scale, bias is not None, segments is not None),
        grid=tuple(sizes[name] for name in names),
        in_specs=in_specs,
        out_specs=[queries(), row],
        out_shape=[
            jax.ShapeDtypeStruct((batch, tokens, columns), dtype),
            jax.ShapeDtypeStruct((batch, plan.heads, 1, plan.reach), jnp.float32),
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=blocks.vmem_limit()
        ),
        cost_estimate=blocks.cost(plan, batch, dtype, bias, products=2, arrays=4),
        interpret=blocks.interpret(),
        name="flash_forward",
    )(*operands)


def _kernel(plan, scale, has_bias, has_segments, *refs):
    inputs, (o_ref, lse_ref) = refs[:-2], refs[-2:]
    q_ref, k_ref, v_ref, bias_ref, segment_refs = blocks.named(inputs, has_bias, has_segments)
    units = plan.group // plan.unit
    constant = scale * blocks.LOG2E

    def turn(i):
        image, unit = blocks.split(i, units)
        base = blocks.multiple(unit, plan.unit * plan.width)

        def chunk(start, size):
            rows = pl.ds(start, size)
            seen = blocks.seen(segment_refs, image, rows)
            query = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
            there = query < plan.tokens - start
            parcel, tables, totals, outs = {}, {}, {}, {}

            def lanes(head):
                first = head // plan.parcel * plan.parcel
                return pl.ds(base + first * plan.width, plan.parcel * plan.width)

            def score(head):
                if head % plan.parcel == 0:
                    parcel["q"] = q_ref[image, rows, lanes(head)]
                    parcel["k"] = k_ref[image, :, lanes(head)]
                q = blocks.only(plan, head, parcel["q"])
                k = parcel["k"][:, blocks.window(plan, head)]
                bias = blocks.bias_chunk(bias_ref, unit * plan.unit + head, rows)
                tables[head] = blocks.scores(k, q, bias, seen, constant)  # [N, C]

            def normalise(head):
                s = tables.pop(head)
                top = jnp.maximum(s.max(axis=0, keepdims=True), blocks.FLOOR)
                p = jnp.exp2(s - top)
                total = p.sum(axis=0, keepdims=True)
                tables[head], totals[head] = p.astype(v_ref.dtype), total
                lse_ref[image, unit * plan.unit + head, :, rows] = jnp.where(
                    there & (total > 0), top + jnp.log2(total), jnp.inf
                )

            def average(head):
                if head % plan.parcel == 0:
                    parcel["v"] = v_ref[image, :, lanes(head)].T
                v = blocks.sublanes(plan, head, parcel["v"])  # [D, N]
                o = blocks.dot(v, tables.pop(head), (1, 0))  # [D, C]
                total = totals.pop(head)  # 0 where a query sees nothing
                outs[head] = o * jnp.where(total == 0, 0.0, 1 / total)
                if len(outs) == plan.parcel:
                    out = jnp.concatenate(list(outs.values())).astype(o_ref.dtype)
                    o_ref[image, rows, lanes(head)] = out.T
                    outs.clear()

            blocks.staged(plan.unit, (0, 2, 4), (score, normalise, average))

        blocks.chunks(plan, chunk)

    blocks.turns(plan.images * units, turn)
