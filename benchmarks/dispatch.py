"""What a step costs before the device works: dispatch, tracing and lowering, against depth.

    python benchmarks/dispatch.py [--out DIR]
Dispatch is the time in which a jitted step of the trainer returns, its state donated, with the
device idle before it: the median of many calls. The network is so narrow that the device keeps up.
Tracing and lowering: the least of three.
"""

import argparse
import statistics
import time

import jax
import numpy as np
import table

from vitjax.sharding import mesh as mesh_lib
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup

CALLS = 200
REPEATS = 3  # of tracing and lowering, each of a step built anew


def measure(depth: int, scan: bool) -> dict:
    recipe = recipe_lib.read(
        {
            "batch_size": 8,
            "steps": 1000,
            "encoder": {
                **{"name": "vit", "variant": "Ti/4", "scan": scan},
                **{"width": 16, "depth": depth, "mlp": 16, "heads": 2},
            },
            "objective": {"name": "supervised", "classes": 10},
            "data": {},
            "input": {"canvas": 8},
            "views": {"size": 8, "crop": "none"},
            "optimizer": {"name": "adamw", "lr": 1e-3, "schedule": {"name": "constant"}},
        }
    )
    mesh = mesh_lib.make_mesh()
    with jax.set_mesh(mesh):
        trace, lower = [], []
        for _ in range(REPEATS):
            experiment = setup.build(recipe, mesh, train_examples=1000)
            start = time.perf_counter()
            traced = experiment.step.trace(experiment.target, setup.batch_target(recipe, mesh))
            trace.append(time.perf_counter() - start)
            start = time.perf_counter()
            traced.lower()
            lower.append(time.perf_counter() - start)
        batch = mesh_lib.put_batch(
            {
                name: np.zeros(struct.shape, struct.dtype)
                for name, struct in setup.batch_target(recipe, mesh).items()
            },
            mesh,
        )
        batch["size"] = batch["size"] + 8
        state = experiment.init()
        calls = []
        for _ in range(CALLS):
            jax.block_until_ready(state)
            start = time.perf_counter()
            state, metrics = experiment.step(state, batch)
            calls.append(time.perf_counter() - start)
        jax.block_until_ready(metrics)
    return {
        "blocks": depth,
        "form": "scanned" if scan else "unrolled",
        "arrays in state": len(jax.tree.leaves(state)),
        "dispatch ms": 1e3 * statistics.median(calls),
        "trace ms": 1e3 * min(trace),
        "lower ms": 1e3 * min(lower),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=None, help="folder for dispatch.json")
    args = parser.parse_args()
    measure(2, True)  # warm: imports and caches of the first trace
    rows = [measure(depth, scan) for scan in (True, False) for depth in (6, 12, 24)]
    table.publish("dispatch", "a train step before the device works", rows, args.out)


if __name__ == "__main__":
    main()
