"""What libtpu believes of each chip: the memory of a program, and the clock of its estimates.

    python benchmarks/chips.py
The clock is the one at which its estimate for a product of two 8192 x 8192 bfloat16 matrices is
the chip's peak (train.clock.PEAK_FLOPS). These are the numbers of plan.topology.CHIPS.
"""

import re

import jax
import jax.numpy as jnp
import table
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.plan import program, topology
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import clock

SIDE = 8192
NAMES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")


def row(name):
    found = topology.find(name)
    mesh = mesh_lib.make_mesh(devices=found.devices[:1])

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P()))

    product = jax.jit(jnp.matmul).lower(array(SIDE, SIDE), array(SIDE, SIDE)).compile()
    cycles = program.estimated_cycles(program.Program(product.as_text()))
    flops, peak = 2 * SIDE**3, clock.peak_flops(found.chip.kind)
    try:
        jax.jit(lambda x: x + 1).lower(array(2**20, 2**20)).compile()
    except jax.errors.JaxRuntimeError as error:
        room = re.search(r"of ([\d.]+)G hbm", str(error)) or re.search(
            r"\(([\d.]+)G\)\.", str(error)
        )
    return {
        "chip": name.partition(":")[0],
        "kind": found.chip.kind,
        "memory GiB": float(room[1]),
        "flop a cycle": flops / cycles,
        "clock GHz": peak * cycles / flops / 1e9,
    }


def main():
    jax.config.update("jax_platforms", "cpu")
    table.publish("chips", "chips as libtpu sees them", [row(name) for name in NAMES])


if __name__ == "__main__":
    main()
