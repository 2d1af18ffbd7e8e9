"""Pods and clusters that are not here, by name: their devices, to compile for, and their chips."""

import importlib.util
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from vitjax.lookup import lookup

GIB = 2**30


class Chip(NamedTuple):
    """kind: how jax names the device. hbm: GiB that a program may fill, as far as the compiler
    says so. clock: cycles a second of the compiler's estimates, None where it makes none. lanes,
    unit: sides of its matrix unit and of its vectors, which sizes should be multiples of."""

    kind: str
    hbm: float
    clock: float | None
    unit: int
    lanes: int = 128


# Memory: what libtpu 0.0.42.1 says in its message when a program is too large (the chips have 32,
# 16, 95 and 32 GiB, cloud.google.com/tpu/docs/system-architecture-tpu-vm); for GPUs what NVIDIA's
# data sheets give, of which jax takes 90%. Clock: at it libtpu's estimate for a product of two
# 8192 x 8192 bfloat16 matrices is the peak of train.clock (`python benchmarks/chips.py`).
CHIPS = {
    "v4": Chip("TPU v4", 30.75, 1.131e9, 128),
    "v5e": Chip("TPU v5 lite", 15.75, 1.712e9, 128),
    "v5p": Chip("TPU v5", 95.74, 1.942e9, 128),
    "v6e": Chip("TPU v6 lite", 31.25, 2.486e9, 256),
    "a100": Chip("NVIDIA A100", 80e9 / GIB * 0.9, None, 16, lanes=64),
    "h100": Chip("NVIDIA H100", 80e9 / GIB * 0.9, None, 16, lanes=64),
    "h200": Chip("NVIDIA H200", 141e9 / GIB * 0.9, None, 16, lanes=64),
}
SYNTAX = re.compile(r"(?:(\d+)x)?([a-z]\w*):(\d+(?:x\d+)*)")


class Topology(NamedTuple):
    """name: as it was asked for. devices: of all slices, to build a mesh of."""

    name: str
    devices: Sequence[jax.Device]
    chip: Chip
    slices: int

    @property
    def platform(self) -> str:
        return platform(self.name)


def parse(name: str) -> tuple[int, str, tuple[int, ...]]:
    """ "2xv5e:16x16" -> (2, "v5e", (16, 16)). Raises ValueError for what is no topology."""
    match = SYNTAX.fullmatch(name)
    if match is None:
        raise ValueError(
            f"--topology={name!r}: expected CHIP:SHAPE as v5e:16x16 or v5p:4x4x4, 2xv5e:16x16 for "
            "two slices, h200:4x8 for 4 hosts of 8 GPUs"
        )
    slices, chip, shape = int(match[1] or 1), match[2], tuple(map(int, match[3].split("x")))
    lookup(CHIPS, chip, "the chip in --topology")
    dims = 3 if chip in ("v4", "v5p") else 2
    if len(shape) != dims or min(slices, *shape) < 1:
        raise ValueError(
            f"--topology={name!r}: {chip} has {dims} dimensions, as in "
            f"{chip}:{'x'.join('4' * dims)}"
        )
    return slices, chip, shape


def platform(name: str) -> str:
    """ "tpu" or "gpu"."""
    return "tpu" if CHIPS[parse(name)[1]].kind.startswith("TPU") else "gpu"


def find(name: str) -> Topology:
    """The devices of a topology. Raises ValueError where the compiler for it is not installed, or
    knows no such shape."""
    slices, chip, shape = parse(name)
    if platform(name) == "tpu":
        devices = _tpu(name, slices, chip, shape)
    else:
        devices = _gpu(name, slices, chip, shape)
    return Topology(name, devices, CHIPS[chip], slices)


def _tpu(name, slices, chip, shape):
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology={name!r} needs libtpu, TPU's compiler: pip install vitjax[tpu]"
        )
    # Else libtpu asks the metadata service of a cloud machine that this is not; and a second
    # process that only compiles would be turned away.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    settings = {"num_slices": slices} if slices > 1 else {}
    if chip == "v4":  # both cores of a chip as one device, as on the machine
        settings["chip_config_name"] = "megacore"
    if shape == (1, 1):  # a host has several chips, unless it is said
        settings["chips_per_host_bounds"] = (1, 1, 1)
    sides = "x".join(map(str, shape))
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip}:{sides}", **settings
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--topology={name!r}: libtpu knows no such shape: {reason}") from error


# What the compiler needs to know of a GPU (openxla, xla/backends/gpu/target_config/specs).
_GPU = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores}
  fpus_per_core: {fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {cache}
  clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {optin}
  cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536
  registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{kind}"
"""
_HOPPER = {
    "shared": 233472,
    "cores": 132,
    "fpus": 128,
    "cache": 52428800,
    "optin": 232448,
    "major": 9,
}
GPUS = {
    "a100": {
        **{"shared": 167936, "cores": 108, "fpus": 64, "cache": 41943040, "optin": 166912},
        **{"major": 8, "bandwidth": 2039000000000, "clock": 1.41, "memory": 85899345920},
    },
    "h100": _HOPPER | {"bandwidth": 3352320000000, "clock": 1.98, "memory": 84978434048},
    "h200": _HOPPER | {"bandwidth": 4800000000000, "clock": 1.98, "memory": 151397597184},
}


def _gpu(name, slices, chip, shape):
    nvidia = importlib.util.find_spec("nvidia")
    roots = [f"{root}/cu13" for root in (nvidia.submodule_search_locations if nvidia else ())]
    tools = next((root for root in roots if os.path.exists(f"{root}/bin/ptxas")), None)
    if importlib.util.find_spec("jax_cuda13_plugin") is None or tools is None:
        raise ValueError(
            f"--topology={name!r} needs the CUDA plugin of jax with ptxas: pip install vitjax[cuda]"
        )
    flags = os.environ.get("XLA_FLAGS", "")
    # Nothing can be timed here.
    os.environ["XLA_FLAGS"] = (
        f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={tools}".strip()
    )
    kind = CHIPS[chip].kind
    hosts, each = shape
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        topology=f"{slices}x{hosts}x{each}",
        target_config=_GPU.format(kind=kind, **GPUS[chip]),
    ).devices
