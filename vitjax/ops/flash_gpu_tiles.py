"""What the Hopper kernels share: tiles in shared memory, products, bias, masks, the loops."""

import functools
import importlib
import math

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

# B batch, N tokens, H heads, D width of one head.
TILE = 64  # rows of one wgmma
SHARED_BYTES = 232448 - 4096  # 227 KB on sm_90, less what barriers, sums and alignment take
LOG2E = math.log2(math.e)
MASKED = -1e30  # finite: inf - inf is no number


@functools.cache
def mosaic():
    """jax's Mosaic GPU module, or None where it is missing or older than its GPU interpreter."""
    try:
        module = importlib.import_module("jax.experimental.pallas.mosaic_gpu")
    except ImportError:
        return None
    return module if hasattr(module, "InterpretGPUParams") else None


def rows(tile):
    """The tokens of a tile; those from N on are read as zeros and not written."""
    return pl.ds(tile * TILE, TILE)


def per_row(value):
    """[TILE] of one value, laid out as the sums over the columns of a product."""
    return mosaic().layout_cast(
        jnp.full((TILE,), value, jnp.float32), mosaic().Layout.WGMMA.reduce(1)
    )


def zeros(width):
    """[TILE, width] laid out as a product."""
    return mosaic().layout_cast(jnp.zeros((TILE, width), jnp.float32), mosaic().Layout.WGMMA)


def down(x, width=TILE):
    """[TILE] to [TILE, width], each row one value."""
    return lax.broadcast_in_dim(x, (TILE, width), (0,))


def across(x):
    """[TILE] to [TILE, TILE], each column one value."""
    return lax.broadcast_in_dim(x, (TILE, TILE), (1,))


def load(ref, layout):
    """Straight into registers, without the check that a faster way was found."""
    return mosaic().load(ref, layout=layout, optimized=False)


def load_row_values(ref):
    return load(ref, mosaic().Layout.WGMMA.reduce(1))


def load_column_values(ref):
    return load(ref, mosaic().Layout.WGMMA.reduce(0))


def product(a, b):
    """a b in float32 [TILE, M]: a [TILE, K] in shared memory or registers, b [K, M] in memory."""

    def multiply(total):
        mosaic().wgmma(total, a, b)
        return total[...]

    return pl.run_scoped(multiply, mosaic().ACC((TILE, b.shape[1]), jnp.float32))


class Operands:
    """The arrays of a kernel by what they mean.

    parts: (q, k, v) [B, N, H, D], or (qkv,) [B, N, 3, H, D]. bias: None or float32 [Hb, N, N],
    segments: None or int32 [B, N], both in whole tiles, segments with -1 there. more: other arrays.
    """

    def __init__(self, parts, bias, segments, *more):
        shape = parts[0].shape
        self.shape = (*shape[:2], *shape[-2:])
        self.dtype = parts[0].dtype
        # Of a tile: wgmma adds up 16 products at a time. Wider tiles of 32 that are not full do not
        # compile (jax 0.11.2: no layout of registers is found).
        self.width = pl.cdiv(shape[-1], 16) * 16
        if self.width != shape[-1] and self.width % 32 == 0:
            self.width += 16
        self.packed = len(parts) == 1
        self.has_bias, self.has_segments = bias is not None, segments is not None
        self.arrays = (*parts, *(x for x in (bias, segments) if x is not None), *more)
        self.count, self.more_count = len(self.arrays), len(more)
        self.bias_heads = bias.shape[0] if self.has_bias else 0

    def bind(self, refs):
        """Take the references of these arrays from those of a kernel."""
        refs = iter(refs)
        self.parts = [next(refs) for _ in range(1 if self.packed else 3)]
        self.bias = next(refs) if self.has_bias else None
        self.segments = next(refs) if self.has_segments else None
        self.more = [next(refs) for _ in range(self.more_count)]

    def part(self, which, b, tile, h):
        """A tile of the queries (0), keys (1) or values (2) in global memory."""
        if self.packed:
            return self.parts[0].at[b, rows(tile), which, h, self.columns()]
        return self.tile(self.parts[which], b, tile, h)

    def tile(self, ref, b, tile, h):
        """A tile [TILE, width] of ref [B, N, H, D]; zeros are read beyond N and D."""
        return ref.at[b, rows(tile), h, self.columns()]

    def columns(self):
        if self.width == self.shape[-1]:
            return slice(None)
        # The copy minds the end by itself, but jax refuses a slice it knows to go beyond.
        return pl.ds(lax.axis_index("head") * 0, self.width)

    def biased(self, s, h, tile, other):
        """Scores [TILE, TILE] in powers of two, with the bias of these rows and columns."""
        if not self.has_bias:
            return s
        h = h if self.bias_heads > 1 else 0
        bias = load(self.bias.at[h, rows(tile), rows(other)], mosaic().Layout.WGMMA)
        return s + bias * LOG2E

    def masked(self, s, b, tile, other):
        """Scores [TILE, TILE] with MASKED where the column is no token of the row's segment."""
        N = self.shape[1]
        if self.has_segments or N % TILE == 0:
            return self.within_segments(s, b, tile, other)
        column = mosaic().broadcasted_iota(jnp.int32, (TILE, TILE), 1, layout=mosaic().Layout.WGMMA)
        return jnp.where(column + other * TILE < N, s, MASKED)

    def within_segments(self, s, b, tile, other):
        """`masked` without a look at N: segments end there, and else the caller need not care."""
        if not self.has_segments:
            return s
        own = load_row_values(self.segments.at[b, rows(tile)])
        own = down(jnp.where(own < 0, -2, own))  # no segment at all is not a segment in common
        others = across(load_column_values(self.segments.at[b, rows(other)]))
        return jnp.where(own == others, s, MASKED)


class Plan:
    """Who keeps what in shared memory: all tiles of two operands, or as many as fit at a time.

    The block's warpgroups fill the shared tiles together; each then takes its own tiles in turn,
    with `own` operands of its own, over all of the shared ones. Where these do not fit at once, a
    block has one own tile a warpgroup, and the shared ones come in chunks. one: a single warpgroup
    and a single tile of each operand.
    """

    def __init__(self, given, own, one=False):
        N = given.shape[1]
        self.given = given
        self.own_count = own
        self.tiles = pl.cdiv(N, TILE)
        # Two have 255 registers a thread, four 128: too few for a sum [64, 128] and the scores.
        self.warpgroups = 1 if one else min(2, self.tiles)
        tile_bytes = TILE * given.width * 2
        room = SHARED_BYTES - self.warpgroups * (own + 2) * tile_bytes
        self.chunks = pl.cdiv(self.tiles, room // (2 * tile_bytes))
        self.chunk = 1 if one else pl.cdiv(self.tiles, self.chunks)
        self.turns = pl.cdiv(self.tiles, self.warpgroups) if self.chunks == 1 else 1
        self.groups = pl.cdiv(self.tiles, self.warpgroups * self.turns)

    def kernel(self, body, types, grid=None):
        """The call of `body`, whose last references are for `bind`. grid: sizes by axis name."""
        gpu = mosaic()
        B, _, H, D = self.given.shape
        width = self.given.width
        grid = grid or {"head": H, "batch": B, "group": self.groups}
        dtype, W = self.given.dtype, self.warpgroups
        # wgmma wants tiles of 8 rows, which a copy cannot make of N rows unless 8 divides N: what
        # arrives is laid out by rows, and goes through registers.
        swizzle = next(x for x in (64, 32, 16) if width % x == 0)
        operand = (gpu.TilingTransform((8, swizzle)), gpu.SwizzleTransform(2 * swizzle))
        by_rows = (gpu.TilingTransform((8,)),)
        if D % swizzle == 0:
            by_rows = (gpu.TilingTransform((swizzle,)), gpu.SwizzleTransform(2 * swizzle))
        scratch = [
            [gpu.SMEM((self.chunk, TILE, width), dtype, transforms=operand) for _ in range(2)],
            [gpu.SMEM((W, TILE, width), dtype, transforms=operand) for _ in range(self.own_count)],
            [gpu.SMEM((W, TILE, width), dtype, transforms=by_rows) for _ in range(2)],
            gpu.Barrier(num_barriers=2 * W),
            gpu.Barrier(num_arrivals=W),
        ]
        return gpu.kernel(
            body,
            out_type=types,
            scratch_types=scratch,
            grid=tuple(grid.values()),
            grid_names=tuple(grid),
            num_threads=W,
            thread_name="warpgroup",
            compiler_params=gpu.CompilerParams(approx_math=True),
        )

    def bind(self, refs):
        """Take the shared memory from the last references of a kernel."""
        self.shared, own, arrived, self.copied, self.met = refs
        self.w = lax.axis_index("warpgroup")
        self.own = [memory.at[self.w] for memory in own]
        self.arrived = [memory.at[self.w] for memory in arrived]

    def stage(self, copies):
        """Tiles from global memory to operands of wgmma: (source, destination), at most two."""
        gpu = mosaic()
        for i, (source, _) in enumerate(copies):
            gpu.copy_gmem_to_smem(source, self.arrived[i], self.copied.at[2 * self.w + i])
        for i, (_, destination) in enumerate(copies):
            gpu.barrier_wait(self.copied.at[2 * self.w + i])
            destination[...] = load(self.arrived[i], gpu.Layout.WGMMA)
        gpu.commit_smem()

    def write(self, copies):
        """Tiles from registers to global memory: (value, destination), at most two."""
        gpu = mosaic()
        for i, (value, _) in enumerate(copies):
            self.arrived[i][...] = value.astype(self.given.dtype)
        gpu.commit_smem()
        for i, (_, destination) in enumerate(copies):
            gpu.copy_smem_to_gmem(self.arrived[i], destination)
        gpu.wait_smem_to_gmem(0)

    def accumulator(self):
        """For `add`: a sum [TILE, width] in registers."""
        return mosaic().ACC((TILE, self.given.width), jnp.float32)

    def add(self, total, a, b):
        """total += a b, begun only (wgmma_wait): a in registers, b in shared memory."""
        mosaic().wgmma(total, a, b)

    def times(self, a, b):
        """a b: a in registers, b in shared memory."""
        return product(a, b)

    def meet(self):
        """Every warpgroup has come this far."""
        if self.warpgroups > 1:
            mosaic().barrier_arrive(self.met)
            mosaic().barrier_wait(self.met)

    def run(self, shared_tile, own_tile):
        """shared_tile(tile): the two tiles of global memory to keep in shared memory.

        own_tile(tile, over_shared, mine): what a warpgroup does with its tile;
        over_shared(step, carry) folds carry = step(slot, tile, carry) over all shared tiles.
        mine: whether to write (the last block may have more warpgroups than tiles are left).
        """
        W = self.warpgroups

        def fill(first):
            @pl.loop(0, pl.cdiv(self.chunk, W))
            def _(i):
                slot = i * W + self.w

                @pl.when((slot < self.chunk) & (first + slot < self.tiles))
                def _():
                    to = [memory.at[slot] for memory in self.shared]
                    self.stage(list(zip(shared_tile(first + slot), to, strict=True)))

            self.meet()

        def over_chunks(step, carry):
            def one(c, carry):
                first = c * self.chunk
                self.meet()  # nobody reads the chunk before
                fill(first)
                count = jnp.minimum(self.chunk, self.tiles - first)
                return lax.fori_loop(0, count, lambda i, x: step(i, first + i, x), carry)

            return lax.fori_loop(0, self.chunks, one, carry)

        def over_all(step, carry):
            return lax.fori_loop(0, self.tiles, lambda i, x: step(i, i, x), carry)

        if self.chunks > 1:
            tile = lax.axis_index("group") * W + self.w
            own_tile(jnp.minimum(tile, self.tiles - 1), over_chunks, tile < self.tiles)
            return
        fill(0)

        @pl.loop(0, self.turns)
        def _(i):
            tile = i * W + self.w

            @pl.when(tile < self.tiles)
            def _():
                own_tile(tile, over_all, True)
