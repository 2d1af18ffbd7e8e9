"""The train step of a recipe, compiled for a topology, and what that says of it."""

import dataclasses
import importlib.metadata
import math
import pathlib
import re
import time
from typing import Any, NamedTuple

import jax

from vitjax import config as config_lib
from vitjax.plan import advice
from vitjax.plan import program as program_lib
from vitjax.plan.program import Program
from vitjax.plan.topology import GIB, Topology
from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules
from vitjax.train import clock, setup, start
from vitjax.train import recipe as recipe_lib
from vitjax.train.recipe import Recipe

# Images in the train split of the data sets that configs name and this machine need not have: of
# TFDS by their name, prepared ones by that of their folder (ImageNet-21k: of fall 2011).
EXAMPLES = {"imagenet2012": 1_281_167, "i21k": 14_197_122}
# The compiler estimates no Pallas kernel. Ours take 2.2 to 3.9 times the cycles of their products
# alone (docs/attention.md: bundles of v5e against matrix units, 197 to 1370 tokens).
KERNEL_SLOWNESS = 3.0
# What libtpu says of a program that is too large: after its attempt to place it, or before.
OVERFLOW = re.compile(r"(?:Used |\()([\d.]+)([KMGT])(?: of|\) exceeds available HBM)")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of one device, in bytes, unless it says otherwise. Dictionaries and numbers alone: JSON.

    peak: what the compiler says it holds at most, of hbm; where it does not fit, what it asks for,
    and what follows is empty. parameters, optimizer, extra: the parts of the state, extra being
    weight averages, teachers, statistics. activations: peak less the state. replicated: bytes of
    state that every device along `data` holds. step_seconds, mfu: by the compiler's estimate; None
    where it makes none.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    remat: str | None
    fits: bool
    hbm: int
    peak: int
    parameters: int
    optimizer: int
    extra: int
    replicated: int
    flops_per_image: float
    advice: list[str]
    versions: dict[str, str]
    compile_seconds: float
    buffers: list[dict] = dataclasses.field(default_factory=list)
    collectives: list[dict] = dataclasses.field(default_factory=list)
    kernels: int = 0
    step_seconds: float | None = None
    mfu: float | None = None

    @property
    def state(self) -> int:
        return self.parameters + self.optimizer + self.extra

    @property
    def activations(self) -> int:
        return self.peak - self.state

    @property
    def images(self) -> int:
        """Of a device, in a step."""
        return self.batch_size // (self.mesh["replica"] * self.mesh["data"])


def recipe_of(settings: dict, topology: Topology, mesh: dict | None, batch: int | None) -> Recipe:
    """The recipe with another mesh and batch. Several slices are replicas, unless a mesh is given.
    Raises ValueError for a key that nothing reads."""
    changes = {} if batch is None else {"batch_size": batch}
    if mesh is None:
        mesh = dict(settings.get("mesh", {}))
        if mesh.get("replica", 1) == 1:
            mesh["replica"] = topology.slices
    recipe = recipe_lib.read(settings | changes | {"mesh": mesh})
    start.check(recipe)
    return recipe


def examples_of(recipe: Recipe) -> int:
    """Images in the train split, which is not here. Raises ValueError where nobody knows."""
    folder = pathlib.PurePath(recipe.data.get("path", "")).name
    name = str(recipe.data.get("dataset", folder)).partition(":")[0]
    if name not in EXAMPLES:
        raise ValueError(
            f"config key data is not a data set whose size is known ({', '.join(EXAMPLES)}): "
            "give --examples"
        )
    if "minival" not in recipe.data:
        raise ValueError("config key data.minival is not set: set it, or give --examples")
    return round(EXAMPLES[name] * (1 - recipe.data["minival"]))


def shards(recipe: Recipe, topology: Topology) -> int:
    """Into how many parts a batch is cut."""
    return mesh_lib.batch_shards(mesh_of(recipe, topology))


def mesh_of(recipe: Recipe, topology: Topology) -> jax.sharding.Mesh:
    """Raises ValueError where the axes do not cover the devices."""
    return config_lib.call(mesh_lib.make_mesh, recipe.mesh, "mesh", devices=topology.devices)


class Step(NamedTuple):
    """A train step as the compiler gets it. lowered: jax.stages.Lowered."""

    recipe: Recipe
    topology: Topology
    experiment: setup.Experiment
    lowered: Any


def plan(settings: dict, topology: Topology, **changes) -> Plan:
    """The plan of the step that the trainer would run. Arguments as of `lower`."""
    return compiled(lower(settings, topology, **changes))[0]


def lower(
    settings: dict,
    topology: Topology,
    *,
    mesh: dict | None = None,
    batch: int | None = None,
    examples: int | None = None,
) -> Step:
    """Trace the step that the trainer would run. Nothing is computed, no data is opened.

    settings: the config as a plain dict. mesh: instead of the config's, as make_mesh takes it.
    batch: images per update instead of the config's. examples: in the train split, None where
    EXAMPLES knows. Raises ValueError of one line.
    """
    with config_lib.one_line():
        recipe = recipe_of(settings, topology, mesh, batch)
        examples = examples_of(recipe) if examples is None else examples
        mesh = mesh_of(recipe, topology)
        with jax.set_mesh(mesh):
            experiment = setup.build(recipe, mesh, train_examples=examples)
            target = setup.batch_target(recipe, mesh)
            lowered = experiment.step.lower(experiment.target, target)
    return Step(recipe, topology, experiment, lowered)


def compiled(step: Step) -> tuple[Plan, Program | None]:
    """(the plan, the program where it fits)."""
    recipe, topology, experiment, lowered = step
    began, program, hbm = time.perf_counter(), None, round(topology.chip.hbm * GIB)
    try:
        found = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        peak = overflow(str(error))
    else:
        peak, program = found.memory_analysis().peak_memory_in_bytes, Program(found.as_text())
    state = experiment.target
    plan = Plan(
        topology=topology.name,
        devices=len(topology.devices),
        mesh=dict(experiment.mesh.shape),
        batch_size=recipe.batch_size,
        remat=recipe.encoder.get("remat"),
        fits=program is not None and peak <= hbm,
        hbm=hbm,
        peak=peak,
        parameters=held(state.params),
        optimizer=held(state.opt),
        extra=held(state.extra),
        replicated=held(state, whole=True),
        flops_per_image=experiment.flops,
        advice=advice.advise(recipe, experiment, topology.chip),
        versions=versions(topology.platform),
        compile_seconds=round(time.perf_counter() - began, 1),
        **(_read(program, step) if program is not None else {}),
    )
    return plan, program


def _read(program, step) -> dict:
    """What the text of a program that fits says."""
    recipe, topology, experiment, _ = step
    moved = program_lib.moved(program_lib.collectives(program))
    kernels = program_lib.kernels(program)
    peak_flops, clock_rate = clock.peak_flops(topology.chip.kind), topology.chip.clock
    step_seconds = mfu = None
    cycles = program_lib.estimated_cycles(program)
    if clock_rate is not None and cycles:
        step_seconds = cycles / clock_rate + KERNEL_SLOWNESS * kernels.flops / peak_flops
        images = recipe.batch_size / len(topology.devices)
        mfu = images * experiment.flops / (step_seconds * peak_flops)
    return {
        "buffers": [buffer._asdict() for buffer in program_lib.buffers(program)],
        "collectives": [row._asdict() for row in moved],
        "kernels": kernels.count,
        "step_seconds": step_seconds,
        "mfu": mfu,
    }


def held(tree, *, whole: bool = False) -> int:
    """Bytes of a tree of ShapeDtypeStructs on one device; whole: of those alone that are not cut
    over `data` though the rules would cut them there for their size."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        axes = {name for entry in leaf.sharding.spec for name in rules.names_of(entry)}
        if whole and ("data" in axes or math.prod(leaf.shape) < 2**14):
            continue
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def overflow(message: str) -> int:
    """Bytes that a program asks for, of the compiler's message; raises what else it says."""
    found = OVERFLOW.search(message)
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        raise RuntimeError(f"the compiler failed: {' '.join(message.split())[:500]}")
    return round(float(found[1]) * UNITS[found[2]])


def versions(platform: str) -> dict[str, str]:
    """Of what a plan depends on."""
    compiler = "libtpu" if platform == "tpu" else "jax-cuda13-plugin"
    return {name: importlib.metadata.version(name) for name in ("jax", "flax", compiler)}


def remedies(plan: Plan) -> list[str]:
    """What to change where a plan does not fit, cheapest first."""
    over, said = plan.peak - plan.hbm, []
    if plan.state > plan.hbm / 2 and plan.replicated > plan.state / 4:
        said.append("cut the state over the devices: sharding.parameters=fsdp, a larger mesh.data")
    order = ("none", "dots", "full")
    if plan.remat in order[:-1]:
        said.append(f"encoder.remat={order[order.index(plan.remat) + 1]} (now {plan.remat})")
    if plan.activations > over and plan.images > 1:
        share = 1 - over / plan.activations
        batch = max(1, math.floor(plan.images * share)) * plan.batch_size // plan.images
        said.append(f"batch_size={batch}, or accumulate more micro-batches")
    if plan.state > 0.8 * plan.hbm:
        said.append("more chips, or mesh.model above 1: the state alone nearly fills them")
    return said or ["more chips"]
