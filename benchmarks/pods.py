"""docs/pods.md: every recipe of ImageNet's scale, compiled for pods that are not here.

    python benchmarks/pods.py [--only vit_b16] [--topology v5e:16x16] [--jobs 2] [--page]
Rows are kept in results/pods.json. One is compiled again only where its program is another: where
a source, a version or the recipe changed, the step is traced, and compiled if what the compiler
gets is not what it got; where only what is read of a program changed (plan/program.py), remove the
rows. --page writes the page of what is there and compiles nothing.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import pathlib
import textwrap

import jax
import largest_vit
import table as results

from vitjax import config
from vitjax.plan import compiled_step, table, topology
from vitjax.train import compiler_options

ROOT = pathlib.Path(__file__).parents[1]
ROWS = results.RESULTS / "pods.json"
CONFIGS = (
    *("vit_b16", "vit_l16", "vit_h14", "vit_so400m", "vit_g14", "resnet50", "resnet152"),
    *("convnext_l", "coatnet_3", "dinov2_l16_i1k", "dinov2_g14"),
)
TOPOLOGIES = ("v5e:16x16", "v5e:4x4", "v4:4x4x4", "v5p:4x4x4", "v6e:16x16", "2xv5e:16x16")
# Four machines of eight: made where jax's CUDA plugin is installed, with --topology.
GPUS = ("a100:4x8", "h100:4x8", "h200:4x8")
# The same images a chip on ever more chips.
SCALING = tuple(
    ("vit_l16", place, 16 * chips)
    for place, chips in {"v5e:4x4": 16, "v5e:8x8": 64, "v5e:16x16": 256, "2xv5e:16x16": 512}.items()
)
# What a step is made of; data, evaluators and what reports are no part of it.
SOURCES = ("models", "objectives", "ops", "optim", "sharding", "plan", "train/setup.py")
SOURCES += (
    "train/step.py",
    "train/state.py",
    "train/compiler_options.py",
    "train/recipe.py",
    "config.py",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="*", default=CONFIGS, choices=CONFIGS, metavar="CONFIG")
    tpus = sorted({*TOPOLOGIES, *(place for _, place, _ in SCALING)})
    parser.add_argument(
        "--topology", nargs="*", default=tpus, choices=[*tpus, *GPUS], metavar="PLACE"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    cases = [*SCALING, *((n, place, 0) for place in (*TOPOLOGIES, *GPUS) for n in CONFIGS)]
    wanted = [case for case in cases if case[0] in args.only and case[1] in args.topology]
    due = [] if args.page else [case for case in wanted if stale(case, rows.get(key_of(case)))]
    if not args.page:
        print(f"{len(wanted) - len(due)} rows are there, {len(due)} to make", flush=True)
    failed = []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        made = {pool.submit(apart, case, rows.get(key_of(case))): case for case in due}
        for done in concurrent.futures.as_completed(made):
            key = key_of(made[done])
            if error := done.exception():
                failed.append(key)
                print(f"{key}: failed: {error}", flush=True)
                continue
            rows[key] = done.result()
            ROWS.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n")
            print(f"{key}: {rows[key]['plan']['compile_seconds']} s", flush=True)
    (ROOT / "docs" / "pods.md").write_text(page(rows))
    if failed:
        raise SystemExit(f"not compiled: {', '.join(failed)}")


def key_of(case) -> str:
    name, place, batch = case
    return f"{name} {place}" + (f" batch {batch}" if batch else "")


def stale(case, row) -> bool:
    return row is None or row["inputs"] != inputs(case)


def inputs(case) -> str:
    """A hash of all that a row may depend on."""
    name, place, batch = case
    found = hashlib.sha256(json.dumps([batch, settings_of(name)], sort_keys=True).encode())
    for source in SOURCES:
        path = ROOT / "vitjax" / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    found.update(json.dumps([place, versions(place)]).encode())
    return found.hexdigest()


def settings_of(name) -> dict:
    return config.load(str(ROOT / "configs" / f"{name}.py"))


def apart(case, row) -> dict:
    """`make` in a process of its own: what libtpu cannot compile may end it. (A pool that was to
    renew its process after eight rows hung there: Python 3.11.7.)"""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(make, case, row).result()


def make(case, row) -> dict:
    """A row; the old one where the compiler would get the same program."""
    jax.config.update("jax_platforms", "cpu")
    name, place, batch = case
    lower = functools.partial(
        compiled_step.lower, settings_of(name), topology.find(place), batch=batch or None
    )
    # Without the lines that make it: kernels carry theirs, and a comment is no other program.
    frames = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    told = json.dumps(compiler_options.OPTIONS[topology.platform(place)])
    program = hashlib.sha256((lower().lowered.as_text() + told).encode()).hexdigest()
    if row is not None and row["program"] == program and row["versions"] == versions(place):
        return row | {"inputs": inputs(case)}
    jax.config.update("jax_traceback_in_locations_limit", frames)
    plan, _ = compiled_step.compiled(lower())
    return {
        "inputs": inputs(case),
        "program": program,
        "versions": versions(place),
        "plan": dataclasses.asdict(plan),
    }


def versions(place) -> dict:
    return compiled_step.versions(topology.platform(place))


HEAD = """# Pods

Which recipe fits which pod, without owning one. Written by `make plan` (`benchmarks/pods.py`); do
not edit.

The step that the trainer runs is compiled by libtpu for each topology, on a CPU: attention
kernels, augmentation, optimizer and all. What fits is the compiler's word, and its message where
it does not. **Nothing here was run on a chip.** GiB are of one chip. "state" is parameters,
optimizer and weight averages or teachers; "peak" is `peak_memory_in_bytes` of the compiled step,
or what the compiler asked for. "gathered" and "reduced" are bytes of all-gathers and of
reduce-scatters and all-reduces in one step, loops counted as often as they run; "async" is the
share of them that runs beside something else. The mesh is the recipe's, `replica=-1, data=16`:
parameters are cut over 16 chips and held as often as that leaves; over all 256 a part of a ViT-B's
matrices is less than a tile, and libtpu then gathers by all-reduces, none of them hidden (`vitjax
plan` says so).
"est." is libtpu's estimate of cycles, waiting for the network left out, at the clock of
[benchmarks/chips.py](../benchmarks/chips.py), attention kernels at 3 times the cycles of their
products ([attention.md](attention.md)); it has none for gathers, which RandAugment's geometry is.
What a step does seldom, as DINOv2's look at its features, counts by how seldom.
MFU = images/s/chip x FLOP/image / peak FLOP/s, FLOP/image
= 6 x multiply-adds, rematerialisation left out.

GPU rows are compiled by jax's CUDA plugin, which estimates no time and, without the GPU, tries no
kernels out: convolutions and products may take other scratch memory there.

`vitjax plan --config configs/NAME.py --topology NAME` prints a row in full, with the largest
arrays, the lines that make them, and sizes that leave a part of the chip idle.
"""


def page(rows) -> str:
    """What is there, a table per recipe."""
    out = [HEAD]
    known = {tuple(row["versions"].items()) for row in rows.values()}
    for versions in sorted(known):
        said = ", ".join(f"{name} {value}" for name, value in versions)
        out.append(f"Compiled with {said}.\n")
    missing = []
    for name in CONFIGS:
        keys = [key_of((name, place, 0)) for place in (*TOPOLOGIES, *GPUS)]
        found = [key for key in keys if key in rows]
        missing += [key for key in keys[: len(TOPOLOGIES)] if key not in rows]
        if not found:
            continue
        plans = [compiled_step.Plan(**rows[key]["plan"]) for key in found]
        gflop = plans[0].flops_per_image / 1e9
        out.append(f"## {name}\n\n{gflop:,.4g} GFLOP an image, forward and backward.\n")
        out.append(table.markdown([table.row(plan) for plan in plans]) + "\n")
    scaled = [
        compiled_step.Plan(**rows[key_of(case)]["plan"]) for case in SCALING if key_of(case) in rows
    ]
    if scaled:
        out.append("## The same images a chip on more chips: vit_l16, 16 each\n")
        out.append(table.markdown([table.row(plan) for plan in scaled]) + "\n")
        out.append(scaling(scaled[0], scaled[-1]) + "\n")
    if largest_vit.FILE.exists():
        out.append(largest_vit.section(json.loads(largest_vit.FILE.read_text())))
    missing += [key_of(case) for case in SCALING if key_of(case) not in rows]
    if missing:
        by_name = {name: sum(key.split()[0] == name for key in missing) for name in CONFIGS}
        counts = ", ".join(f"{name} {count}" for name, count in by_name.items() if count)
        out.append(f"Rows not compiled yet, which `make plan` fills in: {counts}.\n")
    return "\n".join(out)


def scaling(few, many) -> str:
    """What becomes of a step on more chips."""

    def moved(plan):
        return sum(row["bytes"] for row in plan.collectives) / topology.GIB

    return textwrap.fill(
        f"From {few.devices} to {many.devices} chips a chip's collectives go from "
        f"{moved(few):.2f} to {moved(many):.2f} GiB a step, since parameters are cut over 16 chips "
        f"everywhere, and the estimated step from {1e3 * few.step_seconds:.1f} to "
        f"{1e3 * many.step_seconds:.1f} ms: {few.step_seconds / many.step_seconds:.0%} of the "
        "images a chip, by the compiler's word. It does not know what waiting for others costs.",
        width=100,
    )


if __name__ == "__main__":
    main()
