"""What libtpu makes of the TPU kernels, for chips that are not here; needs the [tpu] extra."""

import importlib.util
import itertools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.ops import attention
from vitjax.plan import topology as topology_lib
from vitjax.sharding import mesh as mesh_lib

BENCHMARK = pathlib.Path(__file__).parents[2] / "benchmarks" / "attention_tpu.py"
pytestmark = [
    pytest.mark.pods,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu is missing: the [tpu] extra"
    ),
]


def rows(tmp_path, part, *arguments):
    """What the benchmark finds; a process of its own, since libtpu reads its flags once."""
    command = [sys.executable, str(BENCHMARK), part, *arguments, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.glob("*.json")
    return json.loads(file.read_text())["rows"]


@pytest.mark.parametrize("topology", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_length_and_width_compiles_forward_and_backward(topology, tmp_path):
    found = rows(tmp_path, "compile", "--topology", topology)
    assert {(row["N"], row["D"]) for row in found} == {
        (N, D) for N in (197, 257, 577, 1025, 1370, 4097) for D in (64, 72, 80, 128)
    }
    assert {row["kernels"] for row in found} == {2}


def test_memory_grows_linearly_to_16k_tokens(tmp_path):
    found = rows(tmp_path, "memory")
    ours, theirs = ([row[f"{name} MiB"] for row in found] for name in ("flash", "xla"))
    assert found[-1]["N"] == 16384
    assert all(long < 2.5 * short for short, long in itertools.pairwise(ours))
    assert ours[-1] < 20 * ours[0] and theirs[-1] > 150 * theirs[0]


def test_the_static_schedule_on_v5e_is_short(tmp_path):
    (row,) = rows(tmp_path, "schedule", "--only", "197x64")
    assert row["forward"] <= 230  # bundles; the best by hand was 366, the matrix units need 76
    assert row["backward"] <= 440
    assert row["of jax 128"] <= 0.30 and row["of jax 256"] <= 0.65
    assert row["of XLA"] <= 0.5


def test_nothing_turns_an_activation_around_the_kernels_of_a_vit_block(tmp_path):
    plain, _, cut, _ = rows(tmp_path, "block")
    for row in (plain, cut):
        assert row["attention"] == "flash"
        assert row["kernels"] == 2 and row["all-to-all"] == 0
    assert plain["turned"] == 0 and cut["turned"] <= 1
    assert (plain["heads of a kernel"], cut["heads of a kernel"]) == (12, 6)


def test_vit_g_fits_the_vector_memory_of_v4():
    """16 MiB; of its 16 heads of 88 no fewer fill whole blocks of 128 lanes. (With a few images a
    device libtpu finds room.)"""
    mesh = mesh_lib.make_mesh(devices=topology_lib.find("v4:2x2x1").devices)

    def loss(qkv):
        out = attention.attention_packed(qkv, implementation="flash")
        return jnp.sum(out.astype(jnp.float32) ** 2)

    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, P(("replica", "data")))
        qkv = jax.ShapeDtypeStruct((256, 256, 3, 16, 88), jnp.bfloat16, sharding=place)
        assert "tpu_custom_call" in jax.jit(jax.grad(loss)).lower(qkv).compile().as_text()
