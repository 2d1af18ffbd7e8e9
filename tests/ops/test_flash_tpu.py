"""The TPU kernel, interpreted, against float64. What libtpu makes of it: test_flash_compiled.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import errors, inputs, run
from attention_oracle import oracle as float64
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from vitjax.ops import flash_tpu
from vitjax.ops import flash_tpu_blocks as blocks

# B batch, N tokens, H heads, D width of one head, S segments' ids.

SCALE = 0.3


def oracle(*arrays):
    return float64(*arrays, scale=SCALE)


def flash(q, k, v, bias, segments):
    return flash_tpu.flash(q, k, v, bias, segments, SCALE)


def flash_packed(q, k, v, bias, segments):
    packed = jnp.stack([q, k, v], axis=2)
    return flash_tpu.flash_packed(packed, bias, segments, SCALE).reshape(q.shape)


def xla(q, k, v, bias, segments):
    """What attention costs in accuracy without a kernel."""
    assert bias is None and segments is None
    return jax.nn.dot_product_attention(q, k, v, scale=SCALE, implementation="xla")


CASES = [
    (flash, (2, 5, 2, 32), 0, False),
    (flash, (3, 37, 3, 72), 3, False),  # heads across the blocks of lanes
    (flash, (2, 37, 4, 32), 1, True),
    (flash_packed, (2, 37, 4, 64), 4, False),  # two parcels in a unit
    (flash_packed, (2, 5, 3, 64), 0, True),  # 192 lanes: no whole blocks
    (flash_packed, (2, 5, 2, 128), 1, True),
    (flash_packed, (1, 300, 2, 64), 2, True),  # a whole chunk and a rest
]


@pytest.mark.parametrize("function, shape, bias_heads, segments", CASES)
def test_output_and_gradients_are_those_of_float64(function, shape, bias_heads, segments):
    arrays = inputs(shape, bias_heads, segments)
    assert max(errors(run(function, *arrays), oracle(*arrays))) < 5e-6


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 128 keys and queries, where long sequences have 512."""

    def plans(batch, *sizes):
        plan = blocks.tiled_plan(*sizes)
        return (dataclasses.replace(plan, tile=128, chunk=128),) * 2

    monkeypatch.setattr(blocks, "make_plans", plans)


LONG = [
    (flash_packed, (2, 150, 2, 64), 0, False),
    (flash, (2, 150, 4, 64), 2, True),  # two groups of heads; and the next shares one bias
    (flash_packed, (2, 256, 4, 64), 1, False),
    (flash, (1, 300, 3, 72), 1, True),
]


@pytest.mark.parametrize("function, shape, bias_heads, segments", LONG)
def test_tiles_of_keys_and_queries_give_the_same(
    small_tiles, function, shape, bias_heads, segments
):
    arrays = inputs(shape, bias_heads and max(bias_heads, bias_heads // 2 * shape[2]), segments)
    assert max(errors(run(function, *arrays), oracle(*arrays))) < 5e-6


def test_tiles_of_other_segments_are_not_computed(small_tiles):
    # Tiles 0 and 1 hold segments of their own: were (0, 1) computed, its NaN would spread.
    q, k, v, *_ = inputs((1, 256, 2, 64))
    segments = jnp.repeat(jnp.arange(2, dtype=jnp.int32), 128)[None]
    spoilt = v.at[:, 128:].set(jnp.nan)
    out = flash(q, k, spoilt, None, segments)
    np.testing.assert_array_equal(out[:, :128], flash(q, k, v, None, segments)[:, :128])
    assert jnp.isnan(out[:, 128:]).all()


def test_heads_of_their_own_lanes_give_the_same(monkeypatch):
    """Where 16 heads of 72, which fill whole blocks only together, do not fit the memory."""
    arrays = inputs((1, 40, 16, 72), 1)
    want = oracle(*arrays)
    monkeypatch.setattr(blocks, "vmem_bytes", lambda: 3 << 20)
    assert flash_tpu.plans(1, 40, 16, 72, jnp.float32, 1) is None
    assert max(errors(run(flash_packed, *arrays), want)) < 5e-6


def test_padding_gives_zeros_and_takes_no_gradient():
    arrays = inputs((2, 37, 2, 64), 1, True)
    padding = np.asarray(arrays[-1]) == -1
    assert padding.any(axis=1).all()
    for x in run(flash, *arrays)[:4]:
        assert not np.asarray(x)[padding].any()


@pytest.mark.parametrize("shape", [(2, 37, 2, 64), (2, 50, 3, 72)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_errors_are_within_twice_those_of_xla(dtype, shape):
    arrays = inputs(shape, dtype=dtype)
    want = oracle(*arrays)
    ours = errors(run(flash_packed, *arrays), want)
    theirs = errors(run(xla, *arrays, promotion="standard"), want)
    print(jnp.dtype(dtype).name, shape, "ours", ours, "xla", theirs)
    assert all(a <= 2 * b for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "shape, bias_heads, segments", [((2, 37, 2, 64), 2, True), ((4, 37, 2, 64), 0, False)]
)
def test_memory_of_nan_and_two_cores_change_nothing(shape, bias_heads, segments):
    arrays = inputs(shape, bias_heads, segments)
    mode = pltpu.InterpretParams(
        uninitialized_memory="nan",
        detect_races=True,
        num_cores_or_threads=2,
        out_of_bounds_reads="raise",
        dma_execution_mode="on_wait",
    )
    with pltpu.force_tpu_interpret_mode(mode):
        got = jax.block_until_ready(run(flash_packed, *arrays))
    assert not interpret_pallas_call.races.races_found
    pltpu.reset_tpu_interpret_mode_state()
    assert max(errors(got, oracle(*arrays))) < 5e-6


def test_what_the_kernel_cannot_do_is_said():
    assert flash_tpu.supports((2, 197, 12, 64), jnp.bfloat16, 12) == ""
    assert "float16" in flash_tpu.supports((2, 5, 2, 64), jnp.float16)
    assert "head width is 60" in flash_tpu.supports((2, 5, 2, 60), jnp.float32)
    assert "bias has 3 heads" in flash_tpu.supports((2, 5, 2, 64), jnp.float32, 3)
    assert "do not fit" in flash_tpu.supports((2, 1 << 20, 2, 64), jnp.float32)
    q = jnp.zeros((1, 5, 2, 60))
    with pytest.raises(ValueError, match="head width is 60"):
        flash_tpu.flash(q, q, q, None, None, 1.0)
