"""What libtpu makes of attention for TPUs that are not here. No number below is a time.

    python benchmarks/attention_tpu.py schedule   # bundles of the kernels, jax's own, cycles of XLA
    python benchmarks/attention_tpu.py memory     # peak of forward and backward, to 16k tokens
    python benchmarks/attention_tpu.py block      # a ViT-B/16 of 2 blocks and its gradients
    python benchmarks/attention_tpu.py compile --topology v6e:2x2    # every length and width
Needs the [tpu] extra. A bundle is an instruction word of the core, about a cycle where nothing
stalls; XLA's cycles are libtpu's estimate. Both are per image and head.
"""

import argparse
import importlib.metadata
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import table
from jax.experimental import topologies
from jax.experimental.pallas.ops.tpu import flash_attention as jax_flash
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import models
from vitjax.ops import flash_tpu
from vitjax.ops.attention import attention, attention_packed
from vitjax.plan import program
from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules

LENGTHS = (197, 257, 577, 1025, 1370, 4097)  # 224 and 256 pixels ... 518 (patch 14), 1024
WIDTHS = {64: 12, 72: 16, 80: 16, 128: 8}  # of a head, and the heads of models that have it
SCHEDULED = [(197, 64), (257, 64), (257, 80), (577, 64), (1025, 64), (1370, 64), (197, 128)]
LONG = (1024, 2048, 4096, 8192, 16384)

CHILD = "VITJAX_ATTENTION_TPU_CHILD"  # set in the process that does the work
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Operations a cycle of the four matrix units of a v5e; softmax is what they wait for.
MATRIX_UNITS = 4 * 128 * 128 * 2


class Chip:
    """The first devices of a topology, to compile programs for."""

    def __init__(self, topology):
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
        self.devices = found.devices
        self.mesh = mesh_lib.make_mesh(devices=self.devices[:1])

    def compile_vit(self, attention, sizes):
        """The gradients of `block`, on a mesh of replica x data x model."""
        count = math.prod(sizes)
        mesh = mesh_lib.make_mesh(
            **dict(zip(mesh_lib.AXES, sizes, strict=True)), devices=self.devices[:count]
        )
        settings = {"depth": 2, "dtype": "bfloat16", "attention": attention}
        encoder = models.create("vit", variant="B/16", **settings)
        variables = jax.eval_shape(encoder.init, jax.eval_shape(lambda: jax.random.key(0)))
        placed = rules.shardings(variables, mesh)
        target = jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            variables,
            placed,
        )
        images = jax.ShapeDtypeStruct(
            (64 * sizes[0] * sizes[1], 224, 224, 3),
            jnp.bfloat16,
            sharding=NamedSharding(mesh, mesh_lib.BATCH),
        )

        def loss(variables, images):
            return encoder.apply(variables, images)[0].pooled.astype(jnp.float32).var()

        with jax.set_mesh(mesh):
            step = jax.jit(jax.grad(loss), out_shardings=placed)
            return step.lower(target, images).compile()

    def compile(self, function, *shapes):
        """function of bfloat16 arrays of these shapes."""
        whole = NamedSharding(self.mesh, P())
        arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=whole) for shape in shapes]
        with jax.set_mesh(self.mesh):
            return jax.jit(function).lower(*arrays).compile()

    def plans(self, *shape):
        """Of the kernels for q [B, N, H, D]."""
        with jax.set_mesh(self.mesh):
            return flash_tpu.plans(*shape, jnp.bfloat16)


def ours(qkv):
    return attention_packed(qkv, implementation="flash")


def xla(q, k, v):
    return attention(q, k, v, implementation="xla")


def jax_own(block):
    """jax's flash attention of [B, H, N, D], N a multiple of block; 128 is its default."""
    names = ("block_q", "block_k_major", "block_k")
    sizes = jax_flash.BlockSizes(block_b=1, **dict.fromkeys(names, block))
    return lambda q, k, v: jax_flash.flash_attention(
        q, k, v, sm_scale=q.shape[-1] ** -0.5, block_sizes=sizes
    )


def with_gradients(function):
    def run(grad, *arrays):
        out, pull = jax.vjp(function, *arrays)
        return out, pull(grad)

    return run


class Schedules:
    """What libtpu writes into a folder of each kernel that it compiles."""

    def __init__(self, folder):
        self.folder, self.seen = pathlib.Path(folder), set()

    def bundles(self, kernels):
        """{kernel: bundles of one grid step} of what was compiled since the last call, by a part of
        the kernel's name. The body of a loop counts once."""
        new = set(self.folder.glob("*schedule-analysis_final_bundles.txt")) - self.seen
        self.seen |= new
        found = dict.fromkeys(kernels, 0)
        for path in new:
            for kernel in kernels:
                if kernel in path.name:
                    count = re.search(r"total scheduled bundles:\s+(\d+)", path.read_text())
                    found[kernel] += int(count[1])
        return found


def per_head(bundles, plan):
    """Bundles of one head of one image: exact where a kernel has no loop, else too many, since what
    stands around its loops is counted with every turn."""
    turns = plan.images * plan.group // plan.unit
    return bundles * turns * max(1, plan.tile // plan.chunk) / (plan.images * plan.group)


def schedule(chip, only):
    """The kernels beside jax's own and XLA, at B = 128."""
    flags = os.environ["LIBTPU_INIT_ARGS"]
    schedules, rows = Schedules(re.search(r"dump_to=(\S+)", flags)[1]), []
    for tokens, width in only or SCHEDULED:
        batch, heads = 128 if tokens < 300 else 16, WIDTHS[width]  # XLA's tables have to fit
        apart = (batch, tokens, heads, width)
        chip.compile(
            with_gradients(ours), (*apart[:2], heads * width), (*apart[:2], 3, heads, width)
        )
        found = schedules.bundles(["flash_forward", "flash_backward"])
        forward, backward = map(per_head, found.values(), chip.plans(*apart))
        of_jax = {}
        for block in (128, 256):
            side = -(-tokens // block) * block
            chip.compile(jax_own(block), *[(batch, heads, side, width)] * 3)
            steps = (side // block) ** 2
            of_jax[block] = schedules.bundles(["flash_attention"])["flash_attention"] * steps
        of_xla = cycles(chip.compile(with_gradients(xla), *[apart] * 4)) / batch / heads
        rows.append(
            {
                "N": tokens,
                "D": width,
                "matrix units": round(4 * tokens**2 * width / MATRIX_UNITS),
                "forward": round(forward),
                "backward": round(backward),
                "jax 128": of_jax[128],
                "jax 256": of_jax[256],
                "of jax 128": forward / of_jax[128],
                "of jax 256": forward / of_jax[256],
                "XLA cycles": round(of_xla),
                "of XLA": (forward + backward) / of_xla,
            }
        )
    return rows


def cycles(compiled):
    return program.estimated_cycles(program.Program(compiled.as_text()))


def memory(chip, only):
    """Peak of forward and backward of one image of 4 heads of 64."""
    rows = []
    for tokens in LONG:
        programs = {
            "flash": (ours, [(1, tokens, 256), (1, tokens, 3, 4, 64)]),
            "xla": (xla, [(1, tokens, 4, 64)] * 4),
        }
        row = {"N": tokens}
        for name, (function, shapes) in programs.items():
            row[f"{name} MiB"] = peak_bytes(chip.compile(with_gradients(function), *shapes)) / 2**20
        rows.append(row | {"xla / flash": row["xla MiB"] / row["flash MiB"]})
    return rows


def peak_bytes(compiled):
    return compiled.memory_analysis().peak_memory_in_bytes


def compile_all(chip, only):
    """Forward and backward at every length and width: how many kernels are in the program."""
    rows = []
    for tokens in LENGTHS:
        for width, heads in WIDTHS.items():
            shapes = (4, tokens, heads * width), (4, tokens, 3, heads, width)
            start = time.perf_counter()
            compiled = chip.compile(with_gradients(ours), *shapes)
            text = compiled.as_text()
            rows.append(
                {
                    "N": tokens,
                    "D": width,
                    "kernels": len(program.KERNEL.findall(text)),
                    "peak MiB": peak_bytes(compiled) / 2**20,
                    "compile s": time.perf_counter() - start,
                }
            )
    return rows


def block(chip, only):
    """A ViT-B/16 of 2 scanned blocks and its gradients, 64 images of 224 pixels a device, on one
    chip and cut over data and model. turned: copies of whole activations within the blocks."""
    rows = []
    for sizes in ((1, 1, 1), (1, 2, 2)):
        for name in ("flash", "reference"):
            compiled = chip.compile_vit(name, sizes)
            text = compiled.as_text()
            lse = re.search(r"f32\[\d+,(\d+),1,\d+\]\S*\) custom-call", text)
            copies = re.findall(r"= bf16\[([\d,]+)\]\S* copy\(.*while/body", text)
            rows.append(
                {
                    "mesh": "x".join(map(str, sizes)),
                    "attention": name,
                    "kernels": len(program.KERNEL.findall(text)),
                    "heads of a kernel": lse and int(lse[1]),
                    "turned": sum(_elements(shape) >= 64 * 196 * 64 for shape in copies),
                    "all-to-all": len(re.findall(r"all-to-all(?:-start)?\(", text)),
                    "XLA Mcycles": cycles(compiled) / 1e6,
                    "peak MiB": peak_bytes(compiled) / 2**20,
                }
            )
    return rows


def _elements(shape):
    return math.prod(int(side) for side in shape.split(","))


PARTS = {"schedule": schedule, "memory": memory, "block": block, "compile": compile_all}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--only", nargs="*", default=[], help="of schedule, NxD: 197x64 257x80")
    parser.add_argument("--out", default=None, help="folder for the JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as dump:
        if CHILD not in os.environ:  # libtpu reads its flags once, when it is loaded
            environment = os.environ | ENVIRONMENT | {CHILD: "1"}
            if args.part == "schedule":
                flags = f" --xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true"
                environment["LIBTPU_INIT_ARGS"] = os.environ["LIBTPU_INIT_ARGS"] + flags
            command = [sys.executable, *sys.argv]
            sys.exit(subprocess.run(command, env=environment, check=False).returncode)
        only = [tuple(map(int, shape.split("x"))) for shape in args.only]
        rows = PARTS[args.part](Chip(args.topology), only)
    libtpu = importlib.metadata.version("libtpu")
    title = f"attention for {args.topology}, bfloat16, libtpu {libtpu}: {args.part}"
    table.publish(f"attention_{args.part}", title, rows, args.out)


if __name__ == "__main__":
    main()
