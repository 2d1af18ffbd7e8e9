"""The largest ViT that trains on one H200, on 8 v5e chips and on the 32 chips of a v5p-64.

    python benchmarks/largest_vit.py [--topology v5e:2x4]
vit_g14's recipe with AdamW, all in float32, parameters cut over all devices, everything computed
again in the backward pass, 8 images of 224 pixels a device. Candidates are published shapes, then
ViT-22B's width with more blocks.
Compiled for devices that are not here; needs libtpu or the CUDA plugin, as `vitjax plan` does.
Results are kept by topology in results/largest_vit.json, which docs/pods.md shows.
"""

import argparse
import dataclasses
import json
import pathlib

import jax
import table as results

from vitjax import config
from vitjax.models import vit
from vitjax.models.vit_sizes import SIZES, Size
from vitjax.plan import compiled_step, table, topology

ROOT = pathlib.Path(__file__).parents[1]
FILE = results.RESULTS / "largest_vit.json"
PLACES = ("h200:1x1", "v5e:2x4", "v5p:4x4x2")
IMAGES = 8  # of a device
STATE = 12  # bytes a parameter: itself and two moments; its gradient comes on top
# Of arXiv:2302.05442, table 1, with this project's blocks.
WIDE = Size(6144, 48, 24576, 48)
SHAPES = {f"ViT-{name}": SIZES[name]._asdict() for name in ("L", "H", "g", "G", "e")}
SHAPES |= {"DINOv3's 7B": SIZES["7B"]._asdict() | {"activation": "swiglu"}}
SHAPES |= {
    f"ViT-22B, {depth} blocks": WIDE._replace(depth=depth)._asdict()
    for depth in (48, 96, 144, 192, 240, 288, 336, 384)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--topology", nargs="*", default=PLACES)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    rows = json.loads(FILE.read_text()) if FILE.exists() else {}
    for place in args.topology:
        rows[place] = largest(place)
        FILE.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")


def largest(place: str) -> dict:
    """The plan of the largest shape that fits, and what the next one asks for."""
    where = topology.find(place)
    room = where.chip.hbm * topology.GIB * len(where.devices)
    above = None
    for name, shape in reversed(SHAPES.items()):
        count = parameters(shape)
        if STATE * count > room:
            above = {"shape": name, "parameters": count, "peak": None}
            continue
        plan = compiled_step.plan(
            settings_of(shape), where, mesh={"data": -1}, batch=IMAGES * len(where.devices)
        )
        print(f"{place} {name}: {table.gib(plan.peak)} of {table.gib(plan.hbm)}", flush=True)
        if plan.fits:
            found = {"shape": name, "parameters": count, "plan": dataclasses.asdict(plan)}
            return found | {"above": above}
        above = {"shape": name, "parameters": count, "peak": plan.peak}
    raise ValueError(f"{place} holds none of {', '.join(SHAPES)}")


def settings_of(shape: dict) -> dict:
    settings = config.load(str(ROOT / "configs" / "vit_g14.py"))
    encoder = settings["encoder"] | shape | {"remat": "full"}
    optimizer = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.05, "clip_norm": 1.0}
    schedule = {"name": "cosine", "warmup_steps": 10_000}
    return settings | {"encoder": encoder, "optimizer": optimizer | {"schedule": schedule}}


def parameters(shape: dict) -> int:
    """Of the encoder with patches of 14 pixels."""
    encoder = vit.create("g/14", pool="map", biases="all", **shape)
    made = jax.eval_shape(lambda: encoder.init(jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(made))


HEAD = """## The largest ViT that trains

On one H200, on 8 chips of v5e, on a v5p-64 (32 chips). AdamW with everything in float32, parameters
cut over all devices, all of the forward pass computed again, 8 images of 224 pixels a device
(`python benchmarks/largest_vit.py`). Candidates: published shapes, then the width of ViT-22B with
more blocks.

"""


def section(found) -> str:
    """Of docs/pods.md: what `largest` found, by topology."""
    lines = []
    for place, row in found.items():
        plan, above = compiled_step.Plan(**row["plan"]), row["above"]
        asks = "" if above is None else above["shape"]
        if above is not None and above["peak"] is not None:
            asks += f", {above['peak'] / topology.GIB:.1f} GiB"
        elif above is not None:
            asks += ", whose state alone is larger"
        lines.append(
            {
                "topology": place,
                "largest": row["shape"],
                "parameters": f"{row['parameters'] / 1e9:.2f} billion",
                "state GiB": f"{plan.state / topology.GIB:.2f}",
                "peak GiB": f"{plan.peak / topology.GIB:.2f}",
                "of GiB": f"{plan.hbm / topology.GIB:.2f}",
                "does not fit": asks,
            }
        )
    return HEAD + table.markdown(lines) + "\n"


if __name__ == "__main__":
    main()
