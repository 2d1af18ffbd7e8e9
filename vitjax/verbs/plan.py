"""vitjax plan: does a recipe fit the pod it is for, and what would its step do there?

The train step is compiled for chips that are not here, on any CPU, by their own compiler (libtpu,
or jax's CUDA plugin). Topologies are CHIP:SHAPE: v5e:16x16, v4:4x4x4, 2xv5e:16x16 for two slices,
h200:4x8 for 4 hosts of 8 GPUs.
"""

import argparse
import dataclasses

import jax
from rich.console import Console
from rich.table import Table

from vitjax import config as config_lib
from vitjax.plan import compiled_step, search, table, topology
from vitjax.verbs import arguments


def run(argv: list[str]) -> None:
    summary, _, more = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser("vitjax plan", description=summary, epilog=more)
    parser.add_argument("--config", required=True, help="FILE[:ARGS]")
    parser.add_argument("--topology", required=True, help="one, or several with commas between")
    parser.add_argument("--mesh", help="instead of the config's: data=64,model=4")
    parser.add_argument("--batch", help="images per update; auto: the largest that fits")
    parser.add_argument("--examples", type=int, help="in the train split, which is not opened")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    args, others = parser.parse_known_args(argv)
    if args.json is not None:
        arguments.require_writable(args.json)
    settings = config_lib.load(args.config)
    for text in others:
        key, equals, _ = text.partition("=")
        if not key.startswith("--config.") or not equals:
            raise ValueError(f"unexpected argument {text!r}: expected --config.KEY=VALUE")
        arguments.assign(settings, text.removeprefix("--config."))
    names = args.topology.split(",")
    for name in names:
        topology.parse(name)
    batch = images_of(args.batch)
    mesh = mesh_of(args.mesh)
    # What compiles is a CPU, whatever else this machine has.
    jax.config.update("jax_platforms", "cpu")
    plans = []
    for name in names:
        place = topology.find(name)
        given = {"mesh": mesh, "examples": args.examples}
        if batch == "auto":
            found = search.best(settings, place, **given)
        else:
            found = [compiled_step.plan(settings, place, batch=batch, **given)]
        for plan in found:
            print(table.text(plan), flush=True)
        plans += found
    if len(plans) > 1:
        show([table.row(plan) for plan in plans])
    if args.json is not None:
        arguments.write_json(args.json, [dataclasses.asdict(plan) for plan in plans])


def images_of(text: str | None) -> int | str | None:
    """--batch. Raises ValueError."""
    if text in (None, "auto"):
        return text
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"--batch={text!r}: expected a number of images, or auto")
    return int(text)


def mesh_of(text: str | None) -> dict | None:
    """ "data=64,model=4" -> {"data": 64, "model": 4}; what is left out is 1, of data the rest."""
    if text is None:
        return None
    mesh = arguments.section(f"mesh:{text}", "--mesh")
    del mesh["name"]
    wrong = [key for key, size in mesh.items() if not isinstance(size, int)]
    if wrong or not set(mesh) <= {"replica", "data", "model"}:
        raise ValueError(f"--mesh={text!r}: expected replica=, data=, model= and whole numbers")
    return mesh


def show(rows: list[dict[str, str]]) -> None:
    out = Table()
    for key in rows[0]:
        out.add_column(key)
    for row in rows:
        out.add_row(*row.values())
    Console(width=160).print(out)
