"""`flash_tpu` for sequences whose keys do not fit a TPU core: tiles of keys pass by.

Forward with a running maximum (arXiv:2205.14135, algorithm 1); gradients from its sums (algorithm
4), the queries' gathered over all tiles in vector memory: 8 MiB for 16,384 tokens of 128 lanes.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vitjax.ops import flash_tpu_blocks as blocks

# B batch, N tokens, H heads, D width of one head, T tile; g, t, s, b: a grid's heads, tile of
# queries, tile of keys, image.


def tile_ranges(plan, segments):
    """Least and greatest id of every tile, [B, tiles] each: what a tile of others is dead to."""
    tiles = segments.reshape(len(segments), plan.tiles, plan.tile)
    beyond = jnp.iinfo(jnp.int32).max
    return jnp.where(tiles < 0, beyond, tiles).min(axis=2), tiles.max(axis=2)


class _Call:
    """Specifications, operands and grid that forward and backward share."""

    def __init__(self, plan, parts, bias, segments, names):
        self.plan, self.names = plan, names
        batch = parts[0].shape[0]
        sizes = {"b": batch, "g": plan.groups, "t": plan.tiles, "s": plan.tiles}
        self.grid = tuple(sizes[name] for name in names)
        shift = plan.groups if len(parts) == 1 else 0
        q, k, v = parts * 3 if len(parts) == 1 else parts
        self.arrays = [q, k, v]
        self.specs = [self.rows("t"), self.rows("s", shift), self.rows("s", 2 * shift)]
        self.scalars = []
        short = plan.reach - plan.tokens
        if bias is not None:
            turned = jnp.pad(bias.swapaxes(1, 2), ((0, 0), (0, short), (0, short)))
            self.arrays.append(turned)
            self.specs.append(self.bias(len(bias)))
        if segments is not None:
            ids = jnp.pad(segments, ((0, 0), (0, short)), constant_values=-1)
            self.scalars = [*tile_ranges(plan, ids)]
            self.arrays += [ids[:, None]] * 2
            for axis in "ts":
                self.specs.append(self.spec((1, 1, plan.tile), lambda i, a=axis: (i["b"], 0, i[a])))

    def spec(self, shape, index):
        names = self.names
        return pl.BlockSpec(shape, lambda *i: index(dict(zip(names, i[: len(names)], strict=True))))

    def rows(self, axis, shift=0):
        """Tokens of q, k, v and the like."""
        columns = self.plan.group * self.plan.width
        shape = (1, self.plan.tile, columns)
        return self.spec(shape, lambda i: (i["b"], i[axis], shift + i["g"]))

    def per_query(self):
        """Rows of one number per query."""
        shape = (1, self.plan.group, 1, self.plan.tile)
        return self.spec(shape, lambda i: (i["b"], i["g"], 0, i["t"]))

    def bias(self, heads):
        own = heads > 1
        shape = (self.plan.group if own else 1, self.plan.tile, self.plan.tile)
        return self.spec(shape, lambda i: (i["g"] if own else 0, i["s"], i["t"]))

    def __call__(self, kernel, extra, outputs, scratch, gathering, name, cost):
        """extra, outputs: [(array or shape, specification)]."""
        semantics = ["arbitrary" if axis in gathering else "parallel" for axis in self.names]
        return pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(self.scalars),
                grid=self.grid,
                in_specs=[*(place for _, place in extra), *self.specs],
                out_specs=[place for _, place in outputs],
                scratch_shapes=scratch,
            ),
            out_shape=[shape for shape, _ in outputs],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=semantics, vmem_limit_bytes=blocks.vmem_limit()
            ),
            cost_estimate=cost,
            interpret=blocks.interpret(),
            name=name,
        )(*self.scalars, *(array for array, _ in extra), *self.arrays)


class _Step:
    """What a kernel knows of its tiles."""

    def __init__(self, plan, names, has_segments):
        self.plan = plan
        self.at = {name: pl.program_id(i) for i, name in enumerate(names)}
        self.has_segments = has_segments

    def left(self, axis):
        return self.plan.tokens - self.at[axis] * self.plan.tile

    def live(self, scalars):
        """Whether any query of the tile may see any of its keys."""
        if not self.has_segments:
            return True
        low, high = scalars
        b, t, s = (self.at[name] for name in "bts")
        return (low[b, t] <= high[b, s]) & (low[b, s] <= high[b, t])

    def read(self, ref, axis):
        """[T, lanes], zero where there is no token."""
        x = ref[0]
        return x if self.plan.reach == self.plan.tokens else blocks.existing(x, self.left(axis))

    def seen(self, segment_refs, rows):
        if self.has_segments:
            return blocks.seen(segment_refs, 0, rows)
        if self.plan.reach == self.plan.tokens:
            return None
        key = jax.lax.broadcasted_iota(jnp.int32, (self.plan.tile, 1), 0)
        return key < self.left("s")

    def first(self, axis):
        return self.at[axis] == 0

    def last(self, axis):
        return self.at[axis] == self.plan.tiles - 1


def _parcel(plan, head, x):
    """Lanes of the parcel of a head, of those of its group."""
    first = head // plan.parcel * plan.parcel * plan.width
    return x[:, first : first + plan.parcel * plan.width]


def _halves(plan):
    return [pl.ds(start, plan.chunk) for start in range(0, plan.tile, plan.chunk)]


def forward(plan, parts, bias, segments, scale, columns):
    """out [B, N, H D] and lse [B, H, 1, reach], of the operands of `flash_tpu._forward`."""
    call = _Call(plan, parts, bias, segments, "bgts")
    batch, tokens = parts[0].shape[:2]
    dtype = parts[0].dtype
    out = jax.ShapeDtypeStruct((batch, tokens, columns), dtype)
    lse = jax.ShapeDtypeStruct((batch, plan.heads, 1, plan.reach), jnp.float32)
    row = pltpu.VMEM((plan.group, 1, plan.tile), jnp.float32)
    return call(
        functools.partial(_forward, plan, scale, bias is not None, segments is not None),
        [],
        [(out, call.rows("t")), (lse, call.per_query())],
        [row, row, pltpu.VMEM((plan.group * plan.width, plan.tile), jnp.float32)],
        "s",
        "flash_long_forward",
        blocks.cost(plan, batch, dtype, bias, products=2, arrays=4),
    )


def _forward(plan, scale, has_bias, has_segments, *refs):
    scalars, refs = (refs[:2], refs[2:]) if has_segments else ((), refs)
    inputs, (o_ref, lse_ref, top_ref, total_ref, sum_ref) = refs[:-5], refs[-5:]
    q_ref, k_ref, v_ref, bias_ref, segment_refs = blocks.named(inputs, has_bias, has_segments)
    step = _Step(plan, "bgts", has_segments)

    @pl.when(step.first("s"))
    def _():
        top_ref[...] = jnp.full_like(top_ref, blocks.FLOOR)
        total_ref[...] = jnp.zeros_like(total_ref)
        sum_ref[...] = jnp.zeros_like(sum_ref)

    @pl.when(step.live(scalars))
    def _():
        k = step.read(k_ref, "s")
        values = step.read(v_ref, "s").T  # [group D, T]
        for rows in _halves(plan):
            seen = step.seen(segment_refs, rows)
            q = q_ref[0, rows]
            tables = {}

            def score(head, q=q, rows=rows, seen=seen, tables=tables):
                span = blocks.window(plan, head)
                one = blocks.only(plan, head, _parcel(plan, head, q))
                keys = _parcel(plan, head, k)[:, span]
                bias = blocks.bias_chunk(bias_ref, head, rows)
                tables[head] = blocks.scores(keys, one, bias, seen, scale * blocks.LOG2E)

            def weigh(head, rows=rows, tables=tables):
                s, before = tables[head], top_ref[head, :, rows]
                top = jnp.maximum(before, s.max(axis=0, keepdims=True))
                p, kept = jnp.exp2(s - top), jnp.exp2(before - top)
                top_ref[head, :, rows] = top
                total_ref[head, :, rows] = total_ref[head, :, rows] * kept + p.sum(
                    axis=0, keepdims=True
                )
                tables[head] = p.astype(values.dtype), kept

            def average(head, rows=rows, tables=tables):
                p, kept = tables.pop(head)
                at = slice(head * plan.width, (head + 1) * plan.width)
                sum_ref[at, rows] = sum_ref[at, rows] * kept + blocks.dot(values[at], p, (1, 0))

            blocks.staged(plan.group, (0, 2, 4), (score, weigh, average))

    @pl.when(step.last("s"))
    def _():
        query = jax.lax.broadcasted_iota(jnp.int32, (1, plan.tile), 1)
        outs = []
        for head in range(plan.group):
            total = total_ref[head]
            inverse = jnp.where(total == 0, 0.0, 1 / total)
            outs.append(sum_ref[head * plan.width : (head + 1) * plan.width] * inverse)
            lse_ref[0, head] = jnp.where(
                (query < step.left("t")) & (total > 0), top_ref[head] + jnp.log2(total), jnp.inf
            )
        o_ref[0] = jnp.concatenate(outs).astype(o_ref.dtype).T


def backward(plan, parts, bias, segments, scale, lse, out, grad):
    """Gradients (of parts, of bias or None), of what `forward` took and gave."""
    batch, tokens, _ = grad.shape
    product = (out.astype(jnp.float32) * grad.astype(jnp.float32)).reshape(
        batch, tokens, plan.heads, plan.width
    )
    delta = product.sum(axis=3).swapaxes(1, 2)[:, :, None]  # [B, H, 1, N]
    delta = jnp.pad(delta, ((0, 0), (0, 0), (0, 0), (0, plan.reach - tokens)))

    def run(names, outputs, scratch, gathering, to_bias):
        call = _Call(plan, parts, bias, segments, names)
        extra = [
            (grad, call.rows("t")),
            (lse, call.per_query()),
            (delta, call.per_query()),
        ]
        kernel = functools.partial(
            _backward, plan, scale, bias is not None, segments is not None, names, to_bias
        )
        products, name = (3, "flash_long_bias") if to_bias else (5, "flash_long_backward")
        cost = blocks.cost(plan, batch, grad.dtype, bias, products=products, arrays=7)
        return call(kernel, extra, outputs(call), scratch, gathering, name, cost)

    like = jax.ShapeDtypeStruct(grad.shape, grad.dtype)

    def of_parts(call):
        # Only the last tile of keys completes the queries' gradients: until then none is written.
        shape = (1, plan.tile, plan.group * plan.width)
        late = call.spec(
            shape, lambda i: (i["b"], jnp.where(i["s"] == plan.tiles - 1, i["t"], 0), i["g"])
        )
        return [(like, late), (like, call.rows("s")), (like, call.rows("s"))]

    lanes = plan.group * plan.width
    shared = pltpu.VMEM((2, lanes, plan.tile), jnp.float32)
    queries = pltpu.VMEM((plan.tiles, lanes, plan.tile), jnp.float32)
    gradients = tuple(run("bgst", of_parts, [shared, queries], "st", False))
    if len(parts) == 1:
        gradients = (jnp.concatenate(gradients, axis=2),)
    if bias is None:
        return gradients, None
    turned = jax.ShapeDtypeStruct((len(bias), plan.reach, plan.reach), jnp.float32)
    # A window of the bias stays while all that adds to it goes by: the images, and the heads too
    # where they share it.
    names = "tsgb"
    of_bias = run(names, lambda call: [(turned, call.bias(len(bias)))], [], "gb", True)[0]
    return gradients, of_bias[:, :tokens, :tokens].swapaxes(1, 2).astype(bias.dtype)


def _backward(plan, scale, has_bias, has_segments, names, to_bias, *refs):
    scalars, refs = (refs[:2], refs[2:]) if has_segments else ((), refs)
    (do_ref, lse_ref, delta_ref), refs = refs[:3], refs[3:]
    inputs, outs = (refs[:-1], refs[-1:]) if to_bias else (refs[:-5], refs[-5:])
    q_ref, k_ref, v_ref, bias_ref, segment_refs = blocks.named(inputs, has_bias, has_segments)
    step = _Step(plan, names, has_segments)
    if to_bias:
        (db_ref,) = outs
        fresh = step.first("b") if db_ref.shape[0] > 1 else step.first("b") & step.first("g")

        @pl.when(fresh)
        def _():
            db_ref[...] = jnp.zeros_like(db_ref)
    else:
        dq_ref, dk_ref, dv_ref, shared, queries = outs

        @pl.when(step.first("t"))
        def _():
            shared[...] = jnp.zeros_like(shared)

        @pl.when(step.first("s"))
        def _():
            queries[step.at["t"]] = jnp.zeros(queries.shape[1:], jnp.float32)

    @pl.when(step.live(scalars))
    def _():
        k, v = (step.read(ref, "s") for ref in (k_ref, v_ref))
        q_all, do_all = (step.read(ref, "t") for ref in (q_ref, do_ref))
        keys = k.T
        for rows in _halves(plan):
            seen = step.seen(segment_refs, rows)
            half = slice(rows.start, rows.start + rows.size)
            q, do = q_all[half], do_all[half]
            turned, kept = (q.T, do.T), {}

            def score(head, q=q, do=do, rows=rows, seen=seen, kept=kept):
                span = blocks.window(plan, head)
                one, do_one = (blocks.only(plan, head, _parcel(plan, head, x)) for x in (q, do))
                bias = blocks.bias_chunk(bias_ref, head, rows)
                near, values = (_parcel(plan, head, x)[:, span] for x in (k, v))
                s = blocks.scores(near, one, bias, seen, scale * blocks.LOG2E)
                kept[head] = s, blocks.dot(values, do_one, (1, 1))

            def differentiate(head, rows=rows, kept=kept):
                s, dp = kept[head]
                p = jnp.exp2(s - lse_ref[0, head, :, rows])
                ds = p * (dp - delta_ref[0, head, :, rows])
                if to_bias:
                    db_ref[0 if db_ref.shape[0] == 1 else head, :, rows] += ds
                kept[head] = p.astype(k.dtype), ds.astype(k.dtype)

            def gather(head, rows=rows, turned=turned, kept=kept):
                p, ds = kept.pop(head)
                at = slice(head * plan.width, (head + 1) * plan.width)
                shared[0, at] += blocks.dot(turned[0][at], ds, (1, 1))
                shared[1, at] += blocks.dot(turned[1][at], p, (1, 1))
                queries[step.at["t"], at, rows] += blocks.dot(keys[at], ds, (1, 0))

            stages = (score, differentiate) if to_bias else (score, differentiate, gather)
            blocks.staged(plan.group, (0, 2, 4)[: len(stages)], stages)

    if not to_bias:

        @pl.when(step.last("t"))
        def _():
            dk_ref[0] = (shared[0] * scale).astype(dk_ref.dtype).T
            dv_ref[0] = shared[1].astype(dv_ref.dtype).T

        @pl.when(step.last("s"))
        def _():
            dq_ref[0] = (queries[step.at["t"]] * scale).astype(dq_ref.dtype).T
