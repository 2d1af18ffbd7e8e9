"""The TPU kernel, interpreted, against float64; and compiled by libtpu, where it is installed."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental.pallas import tpu as pltpu

from vitjax.ops import flash_tpu
from vitjax.ops import flash_tpu_blocks as blocks

# B batch, N tokens, H heads, D width of one head, S segments' ids.

SCALE = 0.3


def inputs(shape, bias_heads=0, segments=False, dtype=jnp.float32):
    """q, k, v and the output's gradient [B, N, H, D], bias [Hb, N, N] and segments [B, N]."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4)]
    bias = ids = None
    if bias_heads:
        bias = jnp.asarray(rng.normal(size=(bias_heads, shape[1], shape[1])), jnp.float32)
    if segments:
        ids = jnp.asarray(rng.integers(-1, 3, size=shape[:2]), jnp.int32)
    return (*arrays, bias, ids)


def oracle(q, k, v, grad, bias, segments):
    """Float64 NumPy, one head at a time: output and gradients of q, k, v, bias (or None)."""
    q, k, v, grad = (np.asarray(x, np.float64) for x in (q, k, v, grad))
    out, dq, dk, dv = (np.zeros(q.shape) for _ in range(4))
    db = None if bias is None else np.zeros(bias.shape)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            shared = 0 if bias is None or len(bias) == 1 else h
            scores = SCALE * q[b, :, h] @ k[b, :, h].T
            if bias is not None:
                scores = scores + np.asarray(bias[shared], np.float64)
            weights = np.exp(scores)
            if segments is not None:
                ids = np.asarray(segments[b])
                weights *= (ids[:, None] == ids) & (ids >= 0)
            total = weights.sum(1, keepdims=True)
            weights /= np.where(total == 0, 1, total)
            out[b, :, h] = weights @ v[b, :, h]
            dweights = grad[b, :, h] @ v[b, :, h].T
            dscores = weights * (dweights - (weights * dweights).sum(1, keepdims=True))
            dq[b, :, h] = SCALE * dscores @ k[b, :, h]
            dk[b, :, h] = SCALE * dscores.T @ q[b, :, h]
            dv[b, :, h] = weights.T @ grad[b, :, h]
            if bias is not None:
                db[shared] += dscores
    return out, dq, dk, dv, db


def flash(q, k, v, bias, segments):
    return flash_tpu.flash(q, k, v, bias, segments, SCALE)


def flash_packed(q, k, v, bias, segments):
    packed = jnp.stack([q, k, v], axis=2)
    return flash_tpu.flash_packed(packed, bias, segments, SCALE).reshape(q.shape)


def xla(q, k, v, bias, segments):
    """What attention costs in accuracy without a kernel."""
    assert bias is None and segments is None
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(q, k, v, scale=SCALE, implementation="xla")


def run(function, q, k, v, grad, bias, segments):
    """Output and gradients of q, k, v, bias (or None)."""

    def out_and_gradients(q, k, v, bias, grad):
        out, pull = jax.vjp(lambda *x: function(*x, segments), q, k, v, bias)
        return out, *pull(grad)

    with jax.numpy_dtype_promotion("standard" if function is xla else "strict"):
        return jax.jit(out_and_gradients)(q, k, v, bias, grad)


def errors(got, want):
    """Largest difference of each, over the largest value of the truth."""
    return [
        np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        for a, b in zip(got, want, strict=True)
        if b is not None
    ]


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
    q, k, v, grad, _, _ = inputs((1, 256, 2, 64))
    segments = jnp.repeat(jnp.arange(2, dtype=jnp.int32), 128)[None]
    spoilt = v.at[:, 128:].set(jnp.nan)
    out = flash(q, k, spoilt, None, segments)
    np.testing.assert_array_equal(out[:, :128], flash(q, k, v, None, segments)[:, :128])
    assert jnp.isnan(out[:, 128:]).all()


def test_heads_of_their_own_lanes_give_the_same(monkeypatch):
    """Where 16 heads of 72, which fill whole blocks only together, do not fit the memory."""
    arrays = inputs((1, 40, 16, 72), 1)
    want = oracle(*arrays)
    monkeypatch.setattr(blocks, "VMEM_BYTES", 3 << 20)
    assert flash_tpu._plans(1, 40, 16, 72, jnp.float32, 1) is None
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
    ours, theirs = (errors(run(f, *arrays), want) for f in (flash_packed, xla))
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


# A process of its own: libtpu holds a lock, and reads its flags once.
COMPILE = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from vitjax.ops import flash_tpu, flash_tpu_blocks as blocks

topology, vmem, shapes = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
blocks.INTERPRET, blocks.VMEM_BYTES = False, vmem << 20
devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
place = NamedSharding(Mesh(np.array(devices[:1]), ("x",)), PartitionSpec())

def gradients(qkv, grad):
    out, pull = jax.vjp(lambda x: flash_tpu.flash_packed(x, None, None, 0.125), qkv)
    return out, pull(grad)

for tokens, heads, width in shapes:
    like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place)
    lowered = jax.jit(gradients).lower(like(4, tokens, 3, heads, width),
                                       like(4, tokens, heads * width))
    done = lowered.compile()
    kernels = done.as_text().count('custom_call_target="tpu_custom_call"')
    print(tokens, width, kernels, done.memory_analysis().peak_memory_in_bytes, flush=True)
"""


def compiled(topology, vmem, shapes, flags=""):
    """What COMPILE prints, a line for each shape."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (the [tpu] extra)")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "LIBTPU_INIT_ARGS": flags,
    }
    command = [sys.executable, "-c", textwrap.dedent(COMPILE), topology, str(vmem), repr(shapes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.split() for line in done.stdout.splitlines()]


CHIPS = pytest.mark.parametrize(
    "topology, vmem", [("v4:2x2x1", 16), ("v5e:2x2", 128), ("v5p:2x2x1", 64), ("v6e:2x2", 128)]
)
WIDTHS = {64: 12, 72: 16, 80: 16, 128: 8}  # and the heads of models that have them
LENGTHS = (197, 257, 577, 1025, 1370, 4097)


@CHIPS
def test_libtpu_compiles_forward_and_backward(topology, vmem):
    shapes = [(197, 12, 64), (257, 16, 80), (577, 16, 72), (1370, 8, 128), (4097, 12, 64)]
    lines = compiled(topology, vmem, shapes)
    assert [line[:3] for line in lines] == [[str(n), str(d), "2"] for n, _, d in shapes]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@CHIPS
def test_libtpu_compiles_every_length_and_width(topology, vmem):
    shapes = [(n, heads, d) for n in LENGTHS for d, heads in WIDTHS.items()]
    lines = compiled(topology, vmem, shapes)
    assert [line[:3] for line in lines] == [[str(n), str(d), "2"] for n, _, d in shapes]


@pytest.mark.slow
def test_memory_grows_linearly_to_16k_tokens():
    lines = compiled("v5e:2x2", 128, [(n, 4, 64) for n in (2048, 4096, 8192, 16384)])
    peaks = [float(line[3]) for line in lines]
    assert peaks[3] < 2.1 * peaks[2] < 4.4 * peaks[1] < 9.3 * peaks[0]


def test_the_static_schedule_on_v5e_is_short(tmp_path):
    flags = f"--xla_jf_dump_to={tmp_path} --xla_jf_dump_llo_text=true"
    compiled("v5e:2x2", 128, [(197, 12, 64)], flags)
    bundles = {}
    for path in tmp_path.glob("*flash_*schedule-analysis_final_bundles.txt"):
        name = "forward" if "flash_forward" in path.name else "backward"
        bundles[name] = int(path.read_text().split("total scheduled bundles:")[1].split()[0]) / 12
    print(bundles)
    assert bundles["forward"] <= 230  # 219; the best by hand was 366
    assert bundles["backward"] <= 460  # 433
