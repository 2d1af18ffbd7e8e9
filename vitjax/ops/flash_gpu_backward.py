"""Gradients of the Hopper kernel: three more, none of which needs an atomic addition."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from vitjax.ops import flash_gpu_tiles as tiles
from vitjax.ops.flash_gpu_tiles import LOG2E, TILE, Operands, Plan, across, down, rows

# B batch, N tokens, H heads, D width of one head.


def backward(parts, bias, segments, out, lse, d_out, scale):
    """(gradients of the parts, of the bias in whole tiles or None).

    parts, bias, segments: as `Operands`. out, d_out: [B, N, H, D]; lse as `forward` gives it.
    With p = 2^(score - lse) and dp = d_out v^T, ds = p (dp - delta), delta the sum of out d_out
    over D (arXiv:2205.14135, algorithm 4). Scores are computed once for the queries, once for the
    keys and values, and once more for the bias.
    """
    d_out = d_out.astype(out.dtype)
    delta = jnp.einsum("bnhd,bnhd->bhn", out, d_out, preferred_element_type=jnp.float32)
    delta = jnp.pad(delta, ((0, 0), (0, 0), (0, lse.shape[-1] - delta.shape[-1])))
    given = Operands(parts, bias, segments, d_out, lse, delta)
    d_queries = _queries(given, scale)
    # The keys' kernel has keys for rows and queries for columns.
    turned = None if bias is None else bias.swapaxes(1, 2)
    given = Operands(parts, turned, segments, d_out, lse, delta)
    d_parts = (d_queries, *_keys_and_values(given, scale))
    if given.packed:
        d_parts = (jnp.stack(d_parts, axis=2),)
    if bias is None:
        return d_parts, None
    return d_parts, _bias(Operands(parts, bias, segments, d_out, lse, delta), scale)


def _queries(given, scale):
    plan = Plan(given, own=2)

    def body(*refs):
        given.bind(refs)
        plan.bind(refs[given.count + 1 :])
        d_queries = refs[given.count]
        d_out, lse, delta = given.more
        b, h = lax.axis_index("batch"), lax.axis_index("head")
        (keys, values), (queries, d_outs) = plan.shared, plan.own

        def shared_tile(tile):
            return given.part(1, b, tile, h), given.part(2, b, tile, h)

        def own_tile(tile, over_shared, mine):
            plan.stage(
                [(given.part(0, b, tile, h), queries), (given.tile(d_out, b, tile, h), d_outs)]
            )
            row_lse = tiles.load_row_values(lse.at[b, h, rows(tile)])
            row_delta = tiles.load_row_values(delta.at[b, h, rows(tile)])

            def sums(total):
                def step(slot, other, carry):
                    s = tiles.product(queries, keys.at[slot].T) * (scale * LOG2E)
                    s = given.masked(given.biased(s, h, tile, other), b, tile, other)
                    p = jnp.exp2(s - down(row_lse))
                    dp = tiles.product(d_outs, values.at[slot].T)
                    ds = p * (dp - down(row_delta))
                    plan.add(total, ds.astype(given.dtype), keys.at[slot])
                    tiles.mosaic().wgmma_wait(0)
                    return carry

                over_shared(step, ())
                return total[...]

            total = pl.run_scoped(sums, plan.accumulator())

            @pl.when(mine)
            def _():
                plan.write([(total * scale, given.tile(d_queries, b, tile, h))])

        plan.run(shared_tile, own_tile)

    return plan.kernel(body, jax.ShapeDtypeStruct(given.shape, given.dtype))(*given.arrays)


def _keys_and_values(given, scale):
    plan = Plan(given, own=2)
    # Both sums of D = 128 beside p and dp take more than the 255 registers of a thread.
    passes = ((True, True),) if given.shape[-1] <= 64 else ((False, True), (True, False))

    def body(*refs):
        given.bind(refs)
        plan.bind(refs[given.count + 2 :])
        d_keys, d_values = refs[given.count : given.count + 2]
        d_out, lse, delta = given.more
        b, h = lax.axis_index("batch"), lax.axis_index("head")
        (queries, d_outs), (keys, values) = plan.shared, plan.own

        def shared_tile(tile):
            return given.part(0, b, tile, h), given.tile(d_out, b, tile, h)

        def own_tile(tile, over_shared, mine):
            plan.stage([(given.part(1, b, tile, h), keys), (given.part(2, b, tile, h), values)])

            def one_pass(with_keys, with_values):
                def sums(*totals):
                    def step(slot, other, carry):
                        s = tiles.product(keys, queries.at[slot].T) * (scale * LOG2E)
                        # Queries from N on have d_out and delta 0, keys from N on are not written.
                        s = given.biased(s, h, tile, other)
                        s = given.within_segments(s, b, tile, other)
                        column_lse = tiles.load_column_values(lse.at[b, h, rows(other)])
                        p = jnp.exp2(s - across(column_lse))
                        if with_values:
                            plan.add(totals[-1], p.astype(given.dtype), d_outs.at[slot])
                        if with_keys:
                            dp = tiles.product(values, d_outs.at[slot].T)
                            column_delta = tiles.load_column_values(delta.at[b, h, rows(other)])
                            ds = p * (dp - across(column_delta))
                            plan.add(totals[0], ds.astype(given.dtype), queries.at[slot])
                        tiles.mosaic().wgmma_wait(0)
                        return carry

                    over_shared(step, ())
                    return [total[...] for total in totals]

                totals = pl.run_scoped(sums, *[plan.accumulator()] * (with_keys + with_values))
                copies = []
                if with_keys:
                    copies.append((totals[0] * scale, given.tile(d_keys, b, tile, h)))
                if with_values:
                    copies.append((totals[-1], given.tile(d_values, b, tile, h)))
                pl.when(mine)(lambda: plan.write(copies))

            for wanted in passes:
                one_pass(*wanted)

        plan.run(shared_tile, own_tile)

    like = jax.ShapeDtypeStruct(given.shape, given.dtype)
    return plan.kernel(body, (like, like))(*given.arrays)


def _bias(given, scale):
    """[Hb, N, N] in whole tiles: one block has one tile of it and goes through the batch."""
    B, _, H, _ = given.shape
    plan = Plan(given, own=2, one=True)
    heads = H // given.bias_heads  # that share a bias

    def body(*refs):
        given.bind(refs)
        plan.bind(refs[given.count + 1 :])
        d_bias = refs[given.count]
        d_out, lse, delta = given.more
        own_head = lax.axis_index("head")
        tile, other = lax.axis_index("row"), lax.axis_index("column")
        (keys, values), (queries, d_outs) = (x.at[0] for x in plan.shared), plan.own

        def add(i, total):
            b, h = lax.div(i, heads), own_head * heads + lax.rem(i, heads)
            plan.stage(
                [(given.part(0, b, tile, h), queries), (given.tile(d_out, b, tile, h), d_outs)]
            )
            plan.stage([(given.part(1, b, other, h), keys), (given.part(2, b, other, h), values)])
            s = tiles.product(queries, keys.T) * (scale * LOG2E)
            # What is added to rows and columns from N on is cut away.
            s = given.biased(s, h, tile, other)
            s = given.within_segments(s, b, tile, other)
            p = jnp.exp2(s - down(tiles.load_row_values(lse.at[b, h, rows(tile)])))
            dp = tiles.product(d_outs, values.T)
            ds = p * (dp - down(tiles.load_row_values(delta.at[b, h, rows(tile)])))
            return total + ds

        total = lax.fori_loop(0, B * heads, add, tiles.zeros(TILE))
        d_bias[own_head, rows(tile), rows(other)] = total

    size = plan.tiles * TILE
    grid = {"head": given.bias_heads, "row": plan.tiles, "column": plan.tiles}
    like = jax.ShapeDtypeStruct((given.bias_heads, size, size), jnp.float32)
    return plan.kernel(body, like, grid)(*given.arrays)
