"""How attention is cut for a TPU core, and the pieces its forward and backward kernels share."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from vitjax.ops.device import device

# B batch, N tokens, H heads, D width of one head; C queries of one chunk.

LANES = 128
LOG2E = math.log2(math.e)
LONGEST_WHOLE = 1408  # tokens; beyond, the code of a turn grows long
USED = 0.8  # of the vector memory, by the estimates of a plan
MASKED = -2e30  # a score that may not be seen; finite, so that no difference of two is NaN
FLOOR = -1e30  # the least maximum of a row: above MASKED, so a row of MASKED has no weight at all
V5E_VMEM_BYTES = 128 << 20  # where the kernels are interpreted


@dataclasses.dataclass(frozen=True)
class Plan:
    """One kernel's share of the work.

    tokens, heads, width: N, H, D. A grid step takes `group` heads of `images` images and `tile`
    queries against all keys; inside, a loop takes `unit` heads and `chunk` queries at a time, read
    and written in parcels of `parcel` heads: the fewest that fill whole blocks of 128 lanes.
    """

    tokens: int
    heads: int
    width: int
    group: int
    images: int
    tile: int
    unit: int
    parcel: int
    chunk: int

    @property
    def groups(self):
        return self.heads // self.group

    @property
    def tiles(self):
        return pl.cdiv(self.tokens, self.tile)

    @property
    def reach(self):
        """Queries of all tiles: rows of scores are this long, and those past `tokens` mean nothing.

        Whole blocks of lanes, so that no reduction over them has to be masked.
        """
        return self.tiles * self.tile


def vmem_bytes():
    """Of one core's vector memory."""
    return V5E_VMEM_BYTES if interpret() else pltpu.get_tpu_info().vmem_capacity_bytes


def interpret():
    """Whether there is no TPU to compile for."""
    return device()[0] != "tpu"


def head_groups(heads, width):
    """Numbers of heads that a block may hold, largest first: whole lane blocks, or all heads."""
    return [
        n for n in range(heads, 0, -1) if heads % n == 0 and (n == heads or n * width % LANES == 0)
    ]


def padded(n, multiple):
    return pl.cdiv(n, multiple) * multiple


@functools.cache
def make_plans(batch, tokens, heads, width, itemsize, bias_heads, budget):
    """(forward, backward): whole sequences where both fit `budget` bytes of vector memory, else
    tiles of keys and queries; None where those do not either. bias_heads: 0 without a bias.
    """
    sizes = (batch, tokens, heads, width, itemsize, bias_heads)
    whole = [_whole(*sizes, backward, budget) for backward in (False, True)]
    if tokens <= LONGEST_WHOLE and all(whole):
        return tuple(whole)
    tiled = tiled_plan(*sizes[1:], budget)
    return None if tiled is None else (tiled, tiled)


def _whole(batch, tokens, heads, width, itemsize, bias_heads, backward, budget):
    rows, tile = padded(tokens, 16), padded(tokens, LANES)
    for group in head_groups(heads, width):
        columns = padded(group * width, LANES)
        # queries and output; keys and values; in the backward pass also their gradients
        window = columns * itemsize * ((3 if backward else 2) * tile)
        window += columns * itemsize * rows * (4 if backward else 2)
        window += min(group, bias_heads) * rows * tile * 4 * (2 if backward else 1)
        unit, parcel = _unit(group, width, tokens, backward)
        # Half as many queries at a time where the code would be long: 12 s for 41 s of compilation
        # at N = 1370, D = 72.
        chunk = min(tile, 256 if unit * tokens <= 8 * 640 else 128)
        scratch = columns * rows * 8 if backward and tile > chunk else 0
        values = (5 if backward else 3) * 4 * rows * chunk
        # Heads whose values do not fit the registers: more where 16 are unrolled (of ViT-g/14's, 88
        # wide, libtpu takes 15.6 MiB for 256 tokens on v4).
        spilled = 2 if unit <= 8 else 3
        # Windows are double-buffered.
        if 2 * window + scratch + spilled * values <= budget * USED:
            images = _images(batch, tokens, 2 * window, budget)
            return Plan(tokens, heads, width, group, images, tile, unit, parcel, chunk)
    return None


def tiled_plan(tokens, heads, width, itemsize, bias_heads, budget):
    group = head_groups(heads, width)[-1]
    columns = padded(group * width, LANES)
    for tile in (512, 256, 128):
        window = 7 * columns * itemsize * tile + 2 * min(group, bias_heads) * tile * tile * 4
        chunk = min(tile, 256)
        scratch = columns * 4 * (padded(tokens, tile) + 2 * tile) + 4 * 5 * 4 * tile * chunk
        if 2 * window + scratch <= budget * USED:
            return Plan(tokens, heads, width, group, 1, tile, group, group, chunk)
    return None


def _images(batch, tokens, window, budget):
    """Images of one step: so many that it has some 256 queries of each head to work on."""
    wanted = max(1, min(256 // tokens, budget // 4 // window))
    return next(n for n in range(wanted, 0, -1) if batch % n == 0)


def _unit(group, width, tokens, backward):
    """Heads unrolled in one turn of the loop, and of a parcel.

    Many: one's products hide behind another's softmax, and only the first and the last have none to
    hide behind. Fewer where a head is long enough to fill the units by itself; the code is longer.
    """
    aligned = [n for n in range(1, group + 1) if group % n == 0 and n * width % LANES == 0]
    if not aligned:
        return group, group
    long = 256 if backward else 640
    wanted = 8 if tokens <= long else 4 if tokens <= 640 else 2
    return next((n for n in aligned if n >= wanted), aligned[-1]), aligned[0]


def turns(count, turn):
    """turn(i) for i < count: the plain call for one, else a loop of the kernel."""
    if count == 1:
        turn(0)
    else:
        jax.lax.fori_loop(0, count, lambda i, _: turn(i), None)


def chunks(plan, turn):
    """turn(start, size) over the tile's queries: whole chunks in a loop, then the rest."""
    whole, rest = divmod(plan.tile, plan.chunk)
    if whole:
        turns(whole, lambda i: turn(multiple(i, plan.chunk), plan.chunk))
    if rest:
        turn(whole * plan.chunk, rest)


def staged(heads, lags, stages):
    """stage(head) for every stage and head, stage j of a head emitted lags[j] heads late.

    The compiler schedules about in the order it is given: so the products of one head run while
    another's softmax does, and two heads' products side by side fill four matrix units (v5e, 4
    heads, N = 197, D = 64: 378 bundles per head emitted head by head, 263 so).
    """
    for i in range(heads + max(lags)):
        for lag, stage in zip(lags, stages, strict=True):
            if 0 <= i - lag < heads:
                stage(i - lag)


def multiple(i, n):
    return i * n if isinstance(i, int) else pl.multiple_of(i * n, n)


def dot(a, b, contract):
    """a and b contracted over one dimension each, summed in float32.

    float32 factors are multiplied in full: the matrix unit would round them to bfloat16.
    """
    precision = "highest" if a.dtype == jnp.float32 else None
    dims = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision, preferred_element_type=jnp.float32)


def window(plan, head):
    """The lanes of the 128-lane blocks, within its parcel, that hold this head: a slice."""
    start = head % plan.parcel * plan.width
    end = padded(start + plan.width, LANES)
    return slice(start // LANES * LANES, min(end, plan.parcel * plan.width))


def only(plan, head, x):
    """x [C, parcel] in the window of this head, the lanes of others made zero.

    Contracted over lanes it acts as the head alone; the matrix unit takes 128 anyway, and no lane
    is moved.
    """
    span = window(plan, head)
    start, size = head % plan.parcel * plan.width - span.start, span.stop - span.start
    x = x[:, span]
    if size == plan.width:
        return x
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    return masked(x, jnp.where((lane >= start) & (lane < start + plan.width), -1, 0))


def existing(x, queries):
    """x [C, lanes] with the rows from `queries` on made zero."""
    packing = 4 // x.dtype.itemsize
    row = packing * jax.lax.broadcasted_iota(jnp.int32, (x.shape[0] // packing, 1), 0)
    last = -1 if packing == 1 else 0xFFFF  # the earlier row of a word is its lower half
    return masked(x, jnp.where(row + packing <= queries, -1, jnp.where(row < queries, last, 0)))


def masked(x, bits):
    """x and bits, as 32-bit words of one or two rows: 16 bits would be unpacked and packed."""
    return pltpu.bitcast(pltpu.bitcast(x, jnp.int32) & bits, x.dtype)


def sublanes(plan, head, x):
    """The rows of a head in the transpose of its parcel [lanes, n]."""
    start = head % plan.parcel * plan.width
    return x[start : start + plan.width]


def scores(k, q, bias, seen, constant):
    """Scores in base 2, keys down and queries across: [N, C] float32.

    So the softmax reduces over sublanes, its sums and the residual are rows, and the products with
    the queries' gradients need no transpose.
    """
    s = dot(k, q, (1, 1)) * constant
    if bias is not None:
        s = s + bias.astype(jnp.float32) * LOG2E
    return s if seen is None else jnp.where(seen, s, MASKED)


def same_segment(keys, queries):
    """[1, N] and [1, C] int32 -> [N, C]: equal ids, and not the -1 of padding."""
    column = keys.reshape(keys.shape[1], 1)
    return (column == queries) & (queries >= 0)


def specs(plan, names):
    """Block specifications of a kernel of whole sequences, whose grid runs over `names`.

    The names are "g", groups of heads, and "b", images. Returns functions and specifications: of
    queries and of keys of a part of the packed projection, of a bias of so many heads, of rows with
    a number per query, and of the segments of queries and of keys.
    """

    def spec(shape, index):
        return pl.BlockSpec(shape, lambda *i: index(**dict(zip(names, i, strict=True))))

    def part_of(tokens):
        shape = (plan.images, tokens, plan.group * plan.width)
        return lambda part=0: spec(shape, lambda g, b: (b, 0, part * plan.groups + g))

    def bias(heads):
        if heads == 1:
            return spec((1, plan.tokens, plan.tile), lambda g, b: (0, 0, 0))
        return spec((plan.group, plan.tokens, plan.tile), lambda g, b: (g, 0, 0))

    row = spec((plan.images, plan.group, 1, plan.tile), lambda g, b: (b, g, 0, 0))
    segments = [
        spec((plan.images, 1, length), lambda g, b: (b, 0, 0))
        for length in (plan.tile, plan.tokens)
    ]
    return part_of(plan.tile), part_of(plan.tokens), bias, row, segments


def operands(plan, parts, bias, segments, names):
    """What both kernels read, with its specifications; `named` undoes it in the kernel.

    The bias goes in transposed, as the scores are: once per call, not per image.
    """
    queries, keys, biases, _, segment_specs = specs(plan, names)
    if len(parts) == 1:
        arrays, places = list(parts) * 3, [queries(0), keys(1), keys(2)]
    else:
        arrays, places = list(parts), [queries(), keys(), keys()]
    short = ((0, 0), (0, 0), (0, plan.reach - plan.tokens))
    if bias is not None:
        arrays.append(jnp.pad(bias.swapaxes(1, 2), short))
        places.append(biases(bias.shape[0]))
    if segments is not None:
        row = segments[:, None]
        arrays += [jnp.pad(row, short, constant_values=-1), row]
        places += segment_specs
    return arrays, places


def named(refs, has_bias, has_segments):
    """(q, k, v, bias or None, (queries', keys') segments or None) of `operands`."""
    refs = list(refs)
    q, k, v = refs[:3]
    bias = refs[3] if has_bias else None
    return q, k, v, bias, tuple(refs[-2:]) if has_segments else None


def seen(segment_refs, image, rows):
    """[N, C] bool: which keys these queries see; None for all."""
    if segment_refs is None:
        return None
    queries, keys = segment_refs
    return same_segment(keys[image], queries[image, :, rows])


def bias_chunk(bias_ref, head, rows):
    """[N, C] of this head of the group, or of the one that all share."""
    if bias_ref is None:
        return None
    return bias_ref[0 if bias_ref.shape[0] == 1 else head, :, rows]


def vmem_limit():
    return int(vmem_bytes() * 0.9)


def split(i, units):
    """divmod of counts, which the kernel compiler takes only rounded towards zero."""
    if isinstance(i, int):
        return divmod(i, units)
    if units == 1:
        return i, 0
    return jax.lax.div(i, units), jax.lax.rem(i, units)


def cost(plan, batch, dtype, bias, *, products, arrays):
    """What XLA shall take a kernel for, of so many products of scores and arrays [B, N, H D]."""
    table = plan.tokens * plan.tokens
    size = batch * plan.tokens * plan.heads * plan.width * jnp.dtype(dtype).itemsize
    biases = 0 if bias is None else bias.shape[0]
    return pl.CostEstimate(
        flops=2 * products * batch * table * plan.heads * plan.width,
        transcendentals=batch * plan.heads * table,
        bytes_accessed=arrays * size + 4 * batch * plan.heads * plan.tokens + 8 * biases * table,
    )
