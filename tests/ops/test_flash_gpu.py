"""The Hopper kernel in jax's GPU interpreter against float64, and compiled without a GPU."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import oracle

from vitjax.ops import flash_gpu, flash_gpu_tiles
from vitjax.ops.flash_gpu_tiles import TILE, mosaic

needs_mosaic = pytest.mark.skipif(
    mosaic() is None, reason=f"jax {jax.__version__} has no GPU interpreter (0.11.2 and absl-py)"
)
CUDA_WHEELS = ("jax_cuda13_plugin", "nvidia.cu13")
B, H, SCALE = 2, 3, 0.3


def plain(q, k, v, bias, segments):
    """What XLA is given elsewhere: float32 softmax, weights in the dtype of the values."""
    s = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * SCALE
    alike = (segments[:, None, :, None] == segments[:, None, None]) & (segments[:, None, None] >= 0)
    weights = jax.nn.softmax(jnp.where(alike, s + bias[None], -1e30), axis=-1)
    weights = jnp.where(alike, weights, 0.0).astype(q.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, v)


def inputs(N, D, dtype, bias_heads, segmented):
    rng = np.random.default_rng(N)
    q, k, v, d_out = (jnp.asarray(rng.normal(size=(B, N, H, D)), dtype) for _ in range(4))
    bias = jnp.asarray(rng.normal(size=(bias_heads or 1, N, N)), jnp.float32)
    bias = bias if bias_heads else jnp.zeros_like(bias)
    segments = np.zeros((B, N), np.int32)
    if segmented:
        segments[:, N // 3 :] = 1
        segments[1, -3:] = -1
    return (q, k, v), d_out, bias, segments


@pytest.fixture
def interpreted(monkeypatch):
    """GPU kernels run in the interpreter, which takes no operand of wgmma from registers."""
    gpu = mosaic()

    def in_memory(plan, a):
        room = plan.arrived[0].at[:, :TILE]  # nothing is on its way while tiles are multiplied
        room[...] = a
        gpu.commit_smem()
        return room

    add, times = flash_gpu_tiles.Plan.add, flash_gpu_tiles.Plan.times
    monkeypatch.setattr(
        flash_gpu_tiles.Plan,
        "add",
        lambda plan, total, a, b: add(plan, total, in_memory(plan, a), b),
    )
    monkeypatch.setattr(
        flash_gpu_tiles.Plan, "times", lambda plan, a, b: times(plan, in_memory(plan, a), b)
    )
    with gpu.force_gpu_interpret_mode(gpu.InterpretGPUParams(detect_races=True)):
        yield


def rms(got, want):
    return np.sqrt(np.square(np.asarray(got, np.float64) - want).mean())


CASES = {
    "one ragged tile": (37, 64, jnp.bfloat16, 0, False, False, False),
    "bias, segments, padding": (130, 64, jnp.bfloat16, H, True, False, False),
    "packed, odd width, bias of all heads": (70, 72, jnp.float16, 1, True, True, False),
    "whole tiles, both sums in turn": (128, 128, jnp.bfloat16, 0, False, True, False),
    "keys in chunks": (200, 64, jnp.bfloat16, 1, True, True, True),
}


@needs_mosaic
@pytest.mark.parametrize("case", CASES)
def test_forward_and_every_gradient_are_as_near_to_float64_as_xlas(
    case, interpreted, monkeypatch, capfd
):
    N, D, dtype, bias_heads, segmented, packed, chunked = CASES[case]
    if chunked:
        monkeypatch.setattr(flash_gpu_tiles, "SHARED_BYTES", 84 * 1024)
    parts, d_out, bias, segments = inputs(N, D, dtype, bias_heads, segmented)
    given_bias = bias if bias_heads else None
    given_segments = jnp.asarray(segments) if segmented else None

    def kernel(parts, bias):
        if not packed:
            return flash_gpu.flash(*parts, bias, given_segments, SCALE)
        out = flash_gpu.flash_packed(jnp.stack(parts, axis=2), bias, given_segments, SCALE)
        return out.reshape(B, N, H, D)

    out, pull = jax.vjp(kernel, parts, given_bias)
    d_parts, d_bias = pull(d_out)
    assert "RACE DETECTED" not in "".join(capfd.readouterr())
    xla, pull = jax.vjp(lambda parts, bias: plain(*parts, bias, jnp.asarray(segments)), parts, bias)
    xla_parts, xla_bias = pull(d_out)
    want = oracle(*parts, d_out, bias, segments, scale=SCALE)
    got = [out, *d_parts]
    assert all(x.dtype == dtype for x in got)
    for name, ours, theirs, truth in zip(
        ("out", "dq", "dk", "dv"), got, [xla, *xla_parts], want[:4], strict=True
    ):
        assert rms(ours, truth) <= 2 * rms(theirs, truth), name
    if bias_heads:
        assert d_bias.dtype == bias.dtype
        assert rms(d_bias, want[4]) <= 2 * rms(xla_bias, want[4])
    if segmented:
        assert not np.asarray(out)[segments < 0].any()


@needs_mosaic
def test_a_bias_of_minus_infinity_hides_keys(interpreted):
    (q, k, v), _, _, _ = inputs(20, 64, jnp.bfloat16, 0, False)
    bias = jnp.zeros((1, 20, 20)).at[:, :, 7:].set(-jnp.inf)
    got = flash_gpu.flash(q, k, v, bias, None, SCALE)
    want = flash_gpu.flash(q[:, :7], k[:, :7], v[:, :7], None, None, SCALE)
    np.testing.assert_array_equal(got[:, :7], want)


@needs_mosaic
@pytest.mark.parametrize(("bias_heads", "kernels"), [(0, 3), (H, 4)])
def test_cuda_gets_the_kernels_and_neither_pads_nor_turns_the_projection(bias_heads, kernels):
    qkv = jax.ShapeDtypeStruct((B, 197, 3, H, 64), jnp.bfloat16)
    bias = jax.ShapeDtypeStruct((H, 197, 197), jnp.float32) if bias_heads else None

    def step(qkv, bias):
        return jax.vjp(lambda *x: flash_gpu.flash_packed(*x, None, SCALE), qkv, bias)[1](
            jnp.ones((B, 197, H * 64), qkv.dtype)
        )

    text = jax.jit(step).trace(qkv, bias).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") == kernels
    moved = [x for x in text.splitlines() if "stablehlo.pad" in x or "stablehlo.transpose" in x]
    assert not [line for line in moved if "xbf16" in line]


def test_what_it_cannot_do_it_says():
    if mosaic() is None:
        assert "jax 0.11.2 or newer" in flash_gpu.supports((B, 197, H, 64), jnp.bfloat16)
        return
    assert flash_gpu.supports((B, 197, H, 64), jnp.bfloat16) == ""
    assert "float32" in flash_gpu.supports((B, 197, H, 64), jnp.float32)
    x = jnp.zeros((B, 5, H, 12), jnp.bfloat16)
    with pytest.raises(ValueError, match=r"heads of 8, 16, \.\.\. 128, not of 12"):
        flash_gpu.flash(x, x, x, None, None, SCALE)


COMPILE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from vitjax.ops import flash_gpu

target, D, with_bias, with_segments, lengths = json.loads(sys.argv[1])
topology = topologies.get_topology_desc(
    platform="cuda", topology_name="", topology="1x1x1", target_config=target
)
whole = NamedSharding(Mesh(np.array(topology.devices), ("x",)), PartitionSpec())
shape = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

def loss(qkv, bias, segments):
    return flash_gpu.flash_packed(qkv, bias, segments, 0.1).astype(jnp.float32).sum()

for N in lengths:
    qkv = shape((2, N, 3, 2, D), jnp.bfloat16)
    bias = shape((2, N, N), jnp.float32) if with_bias else None
    segments = shape((2, N), jnp.int32) if with_segments else None
    wanted = (0, 1) if with_bias else 0
    jax.jit(jax.grad(loss, argnums=wanted)).lower(qkv, bias, segments).compile()
"""
H200 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H200"
"""


def cuda_folder():
    """Where pip put ptxas and the plugin's libraries, or None."""
    found = [importlib.util.find_spec(name.split(".")[0]) for name in CUDA_WHEELS]
    if None in found:
        return None
    folder = pathlib.Path(found[1].submodule_search_locations[0]) / "cu13"
    return folder if (folder / "bin" / "ptxas").exists() else None


@needs_mosaic
@pytest.mark.skipif(cuda_folder() is None, reason=f"needs the wheels of {CUDA_WHEELS}")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("D", [64, 72, 80, 128])
@pytest.mark.parametrize("bias, segments", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_ptxas_for_sm_90a_spills_no_register(D, bias, segments, tmp_path):
    folder = cuda_folder()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={folder}",
        "MOSAIC_GPU_DUMP_TO": str(tmp_path),
        "MOSAIC_GPU_DUMP_PTXAS": "1",
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
    }
    lengths = [197, 257, 577, 1025, 1370, 4097]
    arguments = json.dumps([H200, D, bias, segments, lengths])
    subprocess.run([sys.executable, "-c", COMPILE, arguments], env=environment, check=True)
    reports = [path.read_text() for path in tmp_path.glob("*.ptxas")]
    assert len(reports) == (4 if bias else 3) * len(lengths)
    spilt = [int(n) for report in reports for n in re.findall(r"(\d+) bytes spill loads", report)]
    # Keys and values, with a bias and segments at once, which no network here has.
    assert max(spilt) <= (76 if D == 128 and bias and segments else 0)
