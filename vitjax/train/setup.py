"""From a recipe to the jitted functions of a run: for the trainer, the shape tests and `plan`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import config as config_lib
from vitjax import models, objectives
from vitjax.models.features import Encoder
from vitjax.objectives import Objective
from vitjax.ops import augment, multicrop
from vitjax.ops.device import device
from vitjax.optim import optimizer, schedules
from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules
from vitjax.train import compiler_options
from vitjax.train.frozen import FrozenEncoder, frozen_encoder
from vitjax.train.recipe import Recipe
from vitjax.train.state import State, init_state
from vitjax.train.step import make_step

LOG_STEPS = 50
# What `views.name` says; without one, the first.
VIEWS = {"single": augment.train_views, "multicrop": multicrop.multicrop}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a run computes. All functions are jitted; call them under `jax.set_mesh(mesh)`.

    init() -> State, born sharded. step(state, batch) -> (state, metrics), the state donated.
    frozen: what the evaluators ask of the encoder.
    target: State of ShapeDtypeStruct with shardings. steps: length of the run. flops: of one image,
    forward and backward.
    """

    mesh: Mesh
    encoder: Encoder
    objective: Objective
    target: State
    init: Callable[[], State]
    step: Callable[[State, Any], tuple[State, dict]]
    frozen: FrozenEncoder
    steps: int
    flops: float


def compute_dtype(precision: str) -> str:
    """The precision policy: parameters are float32 always; this is what blocks compute in, on the
    platform of the mesh of `jax.set_mesh`."""
    if precision == "auto":
        return "float32" if device()[0] == "cpu" else "bfloat16"
    if precision not in ("float32", "bfloat16"):
        raise config_lib.ConfigError(
            f"config key precision={precision!r} is unknown: use auto, float32 or bfloat16"
        )
    return precision


def build(recipe: Recipe, mesh: Mesh, *, train_examples: int) -> Experiment:
    """Put the sections of a recipe together. Nothing is computed or allocated yet.

    train_examples: images in the train split, for durations in epochs.
    """
    mesh_lib.check_batch(recipe.batch_size, mesh, recipe.accumulate)
    recipe = resolve(recipe, train_examples)
    steps = run_steps(recipe, train_examples)
    dtype = compute_dtype(recipe.precision)
    size = recipe.views.get("size")
    for key, pixels in {"views.size": size, "input.canvas": recipe.input.get("canvas")}.items():
        if not isinstance(pixels, int) or pixels < 1:
            raise config_lib.ConfigError(f"config key {key}={pixels!r}: give a number of pixels")
    encoder = config_lib.call_named(models.ENCODERS, recipe.encoder, "encoder", dtype=dtype)
    objective = config_lib.call_named(
        objectives.OBJECTIVES, recipe.objective, "objective", encoder=encoder, image_size=size
    )
    tx, schedule = make_optimizer(recipe, steps, train_examples)
    views = make_views(recipe, dtype)

    init = functools.partial(init_state, objective, tx, recipe.seed)
    abstract = jax.eval_shape(init)
    placed = config_lib.call(rules.shardings, recipe.sharding, "sharding", tree=abstract, mesh=mesh)
    target = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
        abstract,
        placed,
    )
    step = make_step(
        objective=objective,
        tx=tx,
        schedule=schedule,
        views=views["train"],
        seed=recipe.seed,
        accumulate=recipe.accumulate,
    )

    return Experiment(
        mesh=mesh,
        encoder=encoder,
        objective=objective,
        target=target,
        init=jax.jit(init, out_shardings=placed),
        step=jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(placed, NamedSharding(mesh, mesh_lib.BATCH)),
            out_shardings=(placed, NamedSharding(mesh, P())),
            compiler_options=compiler_options.of_platform(),
        ),
        frozen=frozen_encoder(encoder, objective, views, placed, mesh),
        steps=steps,
        flops=flops_of(objective, encoder, views["train"], batch_target(recipe, mesh)),
    )


def resolve(recipe: Recipe, train_examples: int) -> Recipe:
    """The recipe with what follows from the sizes of its data and batch written out: durations of
    the objective in steps, and its presets (objectives.PRESETS)."""
    section, sizes = dict(recipe.objective), {"batch_size": recipe.batch_size}
    for phase in objectives.DURATIONS:
        length, section = config_lib.steps_of(
            section, phase, "objective.", examples=train_examples, **sizes
        )
        if length is not None:
            section[f"{phase}steps"] = length
    if "name" in section:
        steps = run_steps(recipe, train_examples)
        section |= objectives.preset(section, steps=steps, examples=train_examples, **sizes)
    return dataclasses.replace(recipe, objective=section)


def flops_of(objective: Objective, encoder: Encoder, views: Callable, batch) -> float:
    """Floating point operations of one image, forward and backward."""
    # The key is made inside: on the mesh of a pod that is not here nothing can be computed.
    shapes = jax.eval_shape(lambda batch: views(batch, jax.random.key(0)), batch)
    if objective.flops is not None:
        return objective.flops(shapes)
    return 6.0 * encoder.macs(shapes["image"].shape[1])


def trace(recipe: Recipe, experiment: Experiment) -> None:
    """Trace step and encoder: whatever does not fit is found before anything is written."""
    batch = batch_target(recipe, experiment.mesh)
    jax.eval_shape(experiment.step, experiment.target, batch)
    encode = experiment.frozen.encode(())
    jax.eval_shape(encode, experiment.target.params, experiment.target.extra, batch)


def run_steps(recipe: Recipe, train_examples: int) -> int:
    """Length of the run in steps; one of steps, epochs, examples says it, the others may be 0."""
    lengths = {unit: getattr(recipe, unit) or None for unit in config_lib.DURATIONS}
    steps, _ = config_lib.steps_of(
        lengths, "", "", batch_size=recipe.batch_size, examples=train_examples
    )
    if not steps:
        raise config_lib.ConfigError("the run has no length: set steps, epochs or examples")
    return steps


class Intervals(NamedTuple):
    """Steps between two evaluations, checkpoints and log lines; None: at the end only. figures:
    whether the end of the run is drawn."""

    evaluate: int | None
    checkpoint: int | None
    log: int
    figures: bool = True

    def due(self, what: str, step: int, last: int) -> bool:
        steps = getattr(self, what)
        return step == last or (steps is not None and step % steps == 0)


def intervals(recipe: Recipe, train_examples: int) -> tuple[Intervals, dict, dict]:
    """(the intervals, what else `evaluate` says, what else `checkpoint` says)."""
    steps, rest = {}, {}
    sections = ("evaluate", "checkpoint", "log")
    for section in sections:
        steps[section], rest[section] = config_lib.steps_of(
            getattr(recipe, section),
            "every_",
            f"{section}.",
            batch_size=recipe.batch_size,
            examples=train_examples,
        )
        if steps[section] == 0:
            raise config_lib.ConfigError(f"config key {section}.every_* is 0: leave it out")
    config_lib.check(Intervals, rest["log"], "log", given=sections)
    steps["log"] = steps["log"] or LOG_STEPS
    return Intervals(**steps, **rest["log"]), rest["evaluate"], rest["checkpoint"]


def make_optimizer(recipe: Recipe, steps: int, train_examples: int):
    """(optax transformation, schedule): warm-up in any unit becomes warm-up in steps."""
    section = dict(recipe.optimizer)
    schedule = dict(section.pop("schedule", {"name": "cosine"}))
    for phase in ("warmup_", "cooldown_"):
        length, schedule = config_lib.steps_of(
            schedule,
            phase,
            "optimizer.schedule.",
            batch_size=recipe.batch_size,
            examples=train_examples,
        )
        if length is not None:
            schedule[f"{phase}steps"] = length
    curve = config_lib.named(schedules.SCHEDULES, schedule, "optimizer.schedule")
    config_lib.check(
        curve, schedule, "optimizer.schedule", given=("lr", "steps"), beyond=schedules.create
    )
    moments = config_lib.named(optimizer.OPTIMIZERS, section, "optimizer")
    config_lib.check(
        optimizer.create, section, "optimizer", given=("schedule", "steps"), beyond=moments
    )
    return optimizer.create(schedule=schedule, steps=steps, **section)


def make_views(recipe: Recipe, dtype: str) -> dict[str, Callable]:
    """{"train": (batch, key) -> views, "eval": batch -> views; the two halves of "eval", "crop":
    batch -> see augment.eval_crop, "cropped": images in 0..255 -> images; "probe": (batch, key) ->
    views, the random crop and flip that a linear probe is trained on (arXiv:2304.07193, B.3)}.

    All share size, mean and std.
    """
    classes = recipe.objective.get("classes", 0)
    shared = {key: recipe.views[key] for key in ("size", "mean", "std") if key in recipe.views}
    section = {"name": next(iter(VIEWS))} | dict(recipe.views)
    given = {"dtype": dtype} | ({"classes": classes} if section["name"] == "single" else {})
    train = functools.partial(config_lib.call_named, VIEWS, section, "views", **given)
    evaluate = functools.partial(
        config_lib.call,
        augment.eval_views,
        shared | dict(recipe.eval_views),
        "eval_views",
        dtype=dtype,
    )
    settings = shared | dict(recipe.eval_views)
    colours = {key: settings.pop(key) for key in ("mean", "std") if key in settings}
    return {
        "train": lambda batch, key: train(batch=batch, key=key),
        "eval": lambda batch: evaluate(batch=batch),
        "probe": functools.partial(
            augment.train_views, classes=0, method="cubic", dtype=dtype, **shared
        ),
        "crop": lambda batch: augment.eval_crop(batch, **settings),
        "cropped": lambda images: augment.cropped_view(images, dtype=dtype, **colours),
    }


def batch_target(recipe: Recipe, mesh: Mesh) -> dict:
    """The global batch as ShapeDtypeStructs: to lower the step without data."""
    B, S = recipe.batch_size, recipe.input["canvas"]
    shapes = {
        "image": ((B, S, S, 3), jnp.uint8),
        "size": ((B, 2), jnp.int32),
        "label": ((B,), jnp.int32),
        "index": ((B,), jnp.uint32),
        "epoch": ((B,), jnp.uint32),
    }
    sharding = NamedSharding(mesh, mesh_lib.BATCH)
    return {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (shape, dtype) in shapes.items()
    }
