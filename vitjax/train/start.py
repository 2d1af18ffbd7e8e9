"""Where a run begins: its data, and its own checkpoint, another run's weights, or nothing."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
from absl import logging
from jax.sharding import Mesh

from vitjax import checkpoint, evaluators, models
from vitjax import config as config_lib
from vitjax.data import pipeline, sources
from vitjax.data import splits as splits_lib
from vitjax.lookup import lookup
from vitjax.ops import position
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import batches, setup
from vitjax.train import recipe as recipe_lib
from vitjax.train.evaluate import Rounds
from vitjax.train.recipe import Recipe
from vitjax.train.setup import Experiment
from vitjax.train.state import State

STREAM = ("split", "batch_size", "seed", "start", "process_index", "process_count")


class Prepared(NamedTuple):
    """All that a config asks for. settings: the config with what follows from the sizes of its data
    written out. keep: what its `checkpoint` says beside the interval."""

    recipe: Recipe
    settings: dict
    mesh: Mesh
    splits: dict[str, splits_lib.Split]
    experiment: Experiment
    every: setup.Intervals
    rounds: Rounds
    keep: dict


def prepare(settings: dict) -> Prepared:
    """Everything that can be wrong with a config is found here, before anything is written.

    settings: the config as a plain dict. Raises ValueError of one line.
    """
    with config_lib.one_line():
        recipe = recipe_lib.read(settings)
        check(recipe)
        mesh = config_lib.call(mesh_lib.make_mesh, recipe.mesh, "mesh", devices=jax.devices())
        splits = open_splits(recipe)
        recipe = setup.resolve(recipe, len(splits["train"]))
        settings = settings | {"objective": dict(recipe.objective)}
        with jax.set_mesh(mesh):
            experiment = setup.build(recipe, mesh, train_examples=len(splits["train"]))
            setup.trace(recipe, experiment)
        every, evaluate, keep = setup.intervals(recipe, len(splits["train"]))
        rounds = Rounds(recipe, experiment, splits, **evaluate)
    return Prepared(recipe, settings, mesh, splits, experiment, every, rounds, keep)


def check(recipe: Recipe) -> None:
    """Raise ValueError for a key that nothing will read, or a number that will not be there."""
    source = config_lib.named(sources.SOURCES, recipe.data, "data")
    config_lib.check(splits_lib.open_splits, recipe.data, "data", given=("split",), beyond=source)
    config_lib.check(pipeline.train_batches, recipe.input, "input", given=STREAM)
    if ("teacher" in recipe.objective) != (recipe.teacher_from is not None):
        raise config_lib.ConfigError(
            "config keys teacher_from and objective.teacher: a frozen teacher needs both, a run "
            "without one neither"
        )
    for name, settings in recipe.evaluators.items():
        evaluator = lookup(evaluators.EVALUATORS, name, "config key evaluators")
        if isinstance(settings, Mapping):
            given = ("train", "validation")
            config_lib.check(evaluator.run, settings, f"evaluators.{name}", given=given)
        evaluators.check(name, settings)
    _, rounds, keep = setup.intervals(recipe, recipe.batch_size)
    config_lib.check(Rounds, rounds, "evaluate", given=("recipe", "experiment", "splits"))
    config_lib.check(checkpoint.Checkpoints, keep, "checkpoint", given=("directory",))
    best, names = keep.get("best"), [f"eval/validation/{name}" for name in recipe.evaluators]
    if best is not None and best.rpartition("/")[0] not in names:
        raise config_lib.ConfigError(
            f"config key checkpoint.best={best!r} is no number of an evaluator of this config: "
            f"those begin with {', '.join(names) or 'nothing, there is none'}"
        )


def open_splits(recipe: Recipe) -> dict[str, splits_lib.Split]:
    """{"train", "validation", "test"}: the splits that `data` names. Raises ValueError where the
    data set has other classes than the objective."""
    splits = splits_lib.open_splits(**recipe.data)
    check_classes(recipe, splits)
    return splits


def check_classes(recipe: Recipe, splits: Mapping[str, splits_lib.Split]) -> None:
    """Raise ConfigError where the objective has other classes than the data set."""
    info = splits["train"].info
    if "classes" in recipe.objective and recipe.objective["classes"] != info.classes:
        raise config_lib.ConfigError(
            f"config key objective.classes={recipe.objective['classes']}, but the data set "
            f"{info.name} has {info.classes} classes"
        )


def open_batches(recipe: Recipe, split: splits_lib.Split, position: dict | None):
    """The stream of training batches, this process's rows. position: from a checkpoint."""
    stream = batches.training(recipe, split, recipe.batch_size, recipe.seed)
    if position is not None:
        stream.set_state(position)
    return stream


def first_state(
    recipe: Recipe, experiment: Experiment, checkpoints: checkpoint.Checkpoints
) -> tuple[State, dict | None]:
    """(state, position in the data): the run's own newest checkpoint, else the weights that
    init_from names, else fresh parameters (position None)."""
    step = checkpoints.latest()
    if step is not None:
        state, position = checkpoints.restore(step, experiment.target)
        logging.info("going on from step %d", step)
        return state, position
    state = experiment.init()
    if recipe.init_from is not None:
        state = adopt(recipe, state, experiment.target)
    if recipe.teacher_from is not None:
        state = taught(recipe.teacher_from, state, experiment.target)
    return state, None


def taught(path: str, state: State, target: State) -> State:
    """The state with the weight average of another run as its frozen teacher. Raises ValueError,
    naming them, where arrays are missing or of another shape."""
    average = {"ema": target.extra["teacher"], "ema_stats": target.extra["teacher_stats"]}
    arrays, differences = checkpoint.restore_parameters(
        path, {"extra": average}, key="teacher_from"
    )
    lacking = {kind: names for kind, names in differences.items() if kind != "unexpected"}
    if lacking:
        raise ValueError(
            f"teacher_from={path!r} is not what objective.teacher says: "
            f"{checkpoint.summary(lacking)}"
        )
    found = arrays["extra"]
    teacher = {"teacher": found["ema"], "teacher_stats": found["ema_stats"]}
    return state._replace(extra=dict(state.extra) | teacher)


def mover(recipe: Recipe):
    """name -> how the encoder of a recipe moves its table of that name to another image size."""
    settings = config_lib.settings_of(models.ENCODERS[recipe.encoder["name"]], recipe.encoder)
    method = settings.get("resample")
    return functools.partial(position.mover, method=method)


def adopt(recipe: Recipe, state: State, target: State) -> State:
    """Start from the encoder of the run in init_from, and from its head where that fits. Tables of
    positions are resampled where the image size is another.

    Where the other run kept averages of its weights and statistics, these are taken. Differences
    are logged by name. Raises ValueError, naming them, where one is in the encoder.
    """
    stats = target.extra["stats"]
    wanted = {
        "params": target.params,
        "extra": {"stats": stats, "ema": target.params, "ema_stats": stats},
    }
    path = recipe.init_from
    arrays, differences = checkpoint.restore_parameters(path, wanted, mover=mover(recipe))
    # The average is there or not; what else the other objective kept is none of ours.
    differences = {
        kind: [n for n in names if n.startswith(("params/", "extra/stats/"))]
        for kind, names in differences.items()
    }
    essential = {
        kind: [n for n in names if n.startswith(("params/encoder/", "extra/stats/"))]
        for kind, names in differences.items()
        if kind != "resampled"
    }
    if any(essential.values()):
        raise ValueError(
            f"init_from={path!r} holds another encoder: {checkpoint.summary(essential)}"
        )
    if any(differences.values()):
        logging.warning("init_from=%r: %s", path, checkpoint.summary(differences, most=20))

    def choose(*candidates):
        return next(a for a in candidates if not isinstance(a, jax.ShapeDtypeStruct))

    params = jax.tree.map(choose, arrays["extra"]["ema"], arrays["params"], state.params)
    found = arrays["extra"]
    stats = jax.tree.map(choose, found["ema_stats"], found["stats"], state.extra["stats"])
    extra = dict(state.extra) | {"stats": stats}
    if "ema" in extra:  # copies: one buffer in two places could not be donated to the step
        start = {"ema": params, "ema_stats": extra["stats"]}
        extra |= jax.tree.map(lambda array: array.copy(), start)
    return State(state.step, params, state.opt, extra)
