"""The gradients of `flash_tpu`: queries, keys, values and bias from one pass over the scores."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vitjax.ops import flash_tpu_blocks as blocks

# B batch, N tokens, H heads, D width of one head; U lanes of a unit of heads, C queries of a chunk.


def backward(plan, parts, bias, segments, scale, lse, grad):
    """Gradients (of parts, of bias or None).

    parts, bias, segments, lse: as `flash_tpu._forward` took and gave them. grad: [B, N, H D], the
    output's. The output itself is not needed: what flash attention takes from it (arXiv:2205.14135,
    algorithm 4, line 19) is also the sum of p * dp over the keys, and all keys are here.
    """
    batch, tokens, columns = grad.shape
    # A window may be left and come back to only within one run of the grid: the bias gradient
    # gathers over the batch, and over the heads that share a bias.
    names = "bg" if bias is None else "gb"
    sizes = {"b": batch // plan.images, "g": plan.groups}
    queries, keys, biases, row, _ = blocks.specs(plan, names)
    operands, in_specs = blocks.operands(plan, parts, bias, segments, names)
    like = functools.partial(jax.ShapeDtypeStruct, dtype=grad.dtype)
    # One window of q, k and v can be written only where a step has all heads.
    joined = len(parts) == 1 and plan.groups == 1
    if joined:
        out_specs = [pl.BlockSpec((plan.images, plan.tile, 3 * columns), _batch_index(names))]
        out_shape = [like((batch, tokens, 3 * columns))]
    else:
        out_specs, out_shape = [queries(), keys(), keys()], [like(grad.shape)] * 3
    gathering = ""
    if bias is not None:
        out_specs.append(biases(bias.shape[0]))
        out_shape.append(jax.ShapeDtypeStruct((*bias.shape[:2], plan.reach), jnp.float32))
        gathering = "gb" if bias.shape[0] == 1 else "b"
    sums = []
    if plan.reach > plan.chunk:
        shape = (2, plan.images, plan.group * plan.width, tokens)
        sums = [pltpu.VMEM(shape, jnp.float32)]
    outputs = pl.pallas_call(
        functools.partial(
            _kernel, plan, scale, bias is not None, segments is not None, joined, names
        ),
        grid=tuple(sizes[name] for name in names),
        in_specs=[queries(), row, *in_specs],
        out_specs=out_specs,
        out_shape=out_shape,
        scratch_shapes=sums,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=[
                "arbitrary" if name in gathering else "parallel" for name in names
            ],
            vmem_limit_bytes=blocks.vmem_limit(),
        ),
        cost_estimate=blocks.cost(plan, batch, grad.dtype, bias, products=5, arrays=7),
        interpret=blocks.interpret(),
        name="flash_backward",
    )(grad, lse, *operands)
    gradients = tuple(outputs[: 1 if joined else 3])
    if len(parts) < len(gradients):
        gradients = (jnp.concatenate(gradients, axis=2),)
    if bias is None:
        return gradients, None
    return gradients, outputs[-1][:, :, :tokens].swapaxes(1, 2).astype(bias.dtype)


def _batch_index(names):
    axis = names.index("b")
    return lambda *i: (i[axis], 0, 0)


def _kernel(plan, scale, has_bias, has_segments, joined, names, *refs):
    (do_ref, lse_ref), refs = refs[:2], list(refs[2:])
    sums = refs.pop() if plan.reach > plan.chunk else None
    db_ref = refs.pop() if has_bias else None
    # (ref, lane where its heads begin) of the gradients of q, k and v.
    if joined:
        ref = refs.pop()
        outs = [(ref, part * plan.heads * plan.width) for part in range(3)]
    else:
        outs = [(refs.pop(), 0) for _ in range(3)][::-1]
    q_ref, k_ref, v_ref, bias_ref, segment_refs = blocks.named(refs, has_bias, has_segments)
    step = {name: pl.program_id(i) for i, name in enumerate(names)}
    units = plan.group // plan.unit
    constant = scale * blocks.LOG2E

    if has_bias:
        first = step["b"] == 0
        if db_ref.shape[0] == 1:
            first = first & (step["g"] == 0)

        @pl.when(first)
        def _():
            db_ref[...] = jnp.zeros_like(db_ref)

    if sums is not None:
        sums[...] = jnp.zeros_like(sums)

    def turn(i):
        image, unit = blocks.split(i, units)
        base = blocks.multiple(unit, plan.unit * plan.width)

        def lanes(head, shift=0):
            first = head // plan.parcel * plan.parcel
            return pl.ds(base + shift + first * plan.width, plan.parcel * plan.width)

        def write(part, rows, head, gradient):
            """gradient [parcel, n], transposed, to its place."""
            ref, shift = outs[part]
            ref[image, rows, lanes(head, shift)] = gradient.astype(ref.dtype).T

        def chunk(start, size):
            rows = pl.ds(start, size)
            seen = blocks.seen(segment_refs, image, rows)
            left = plan.tokens - start
            parcel, kept, gradients = {}, {}, {}

            def load(head):
                for name, ref in (("q", q_ref), ("do", do_ref)):
                    x = ref[image, rows, lanes(head)]
                    parcel[name] = x if plan.reach == plan.tokens else blocks.existing(x, left)
                for name, ref in (("k", k_ref), ("v", v_ref)):
                    parcel[name] = ref[image, :, lanes(head)]
                for name in ("q", "do", "k"):
                    parcel[name, head] = parcel[name].T

            def score(head):
                if head % plan.parcel == 0:
                    load(head)
                span = blocks.window(plan, head)
                q, do = (blocks.only(plan, head, parcel[name]) for name in ("q", "do"))
                bias = blocks.bias_chunk(bias_ref, unit * plan.unit + head, rows)
                s = blocks.scores(parcel["k"][:, span], q, bias, seen, constant)  # [N, C]
                kept[head] = s, blocks.dot(parcel["v"][:, span], do, (1, 1))

            def differentiate(head):
                s, dp = kept[head]
                place = unit * plan.unit + head
                p = jnp.exp2(s - lse_ref[image, place, :, rows])
                delta = (p * dp).sum(axis=0, keepdims=True)
                ds = p * (dp - delta)
                if has_bias:
                    db_ref[0 if db_ref.shape[0] == 1 else place, :, rows] += ds
                kept[head] = p.astype(do_ref.dtype), ds.astype(do_ref.dtype)

            def gather(head):
                p, ds = kept.pop(head)
                first = head // plan.parcel * plan.parcel
                q, do, k = (
                    blocks.sublanes(plan, head, parcel[name, first]) for name in ("q", "do", "k")
                )
                gradients[head] = (
                    blocks.dot(k, ds, (1, 0)) * scale,  # [D, C]
                    blocks.dot(q, ds, (1, 1)) * scale,  # [D, N]
                    blocks.dot(do, p, (1, 1)),  # [D, N]
                )
                if len(gradients) == plan.parcel:
                    dq, dk, dv = map(jnp.concatenate, zip(*gradients.values(), strict=True))
                    gradients.clear()
                    write(0, rows, head, dq)
                    if sums is None:
                        write(1, pl.ds(0, plan.tokens), head, dk)
                        write(2, pl.ds(0, plan.tokens), head, dv)
                    else:
                        sums[0, image, lanes(head)] += dk
                        sums[1, image, lanes(head)] += dv

            blocks.staged(plan.unit, (0, 2, 4), (score, differentiate, gather))

        blocks.chunks(plan, chunk)

        if sums is not None:
            for head in range(0, plan.unit, plan.parcel):
                for part in (1, 2):
                    gradient = sums[part - 1, image, lanes(head)]
                    write(part, pl.ds(0, plan.tokens), head, gradient)

    blocks.turns(plan.images * units, turn)
