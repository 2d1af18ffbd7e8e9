"""Where a run begins: its data, and its own checkpoint, another run's weights, or nothing."""

import jax
from absl import logging

from vitjax import checkpoint, evaluators
from vitjax import config as config_lib
from vitjax.data import pipeline, sources
from vitjax.lookup import lookup
from vitjax.train import setup
from vitjax.train.evaluate import Rounds
from vitjax.train.recipe import Recipe
from vitjax.train.setup import Experiment
from vitjax.train.state import State

STREAM = ("split", "batch_size", "seed", "start", "process_index", "process_count")


def check(recipe: Recipe) -> None:
    """Raise ValueError for a key that nothing will read, before anything is written."""
    source = config_lib.named(sources.SOURCES, recipe.data, "data")
    config_lib.check(pipeline.open_splits, recipe.data, "data", given=("split",), beyond=source)
    config_lib.check(pipeline.train_batches, recipe.input, "input", given=STREAM)
    for name, settings in recipe.evaluators.items():
        run = lookup(evaluators.EVALUATORS, name, "config key evaluators").run
        config_lib.check(run, settings, f"evaluators.{name}", given=("train", "validation"))
    _, rounds, keep = setup.intervals(recipe, recipe.batch_size)
    config_lib.check(Rounds, rounds, "evaluate", given=("recipe", "experiment", "splits"))
    config_lib.check(checkpoint.Checkpoints, keep, "checkpoint", given=("directory",))


def open_splits(recipe: Recipe) -> dict[str, pipeline.Split]:
    """{"train", "validation", "test"}: the splits that `data` names. Raises ValueError where the
    data set has other classes than the objective."""
    splits = pipeline.open_splits(**recipe.data)
    classes = splits["train"].info.classes
    if "classes" in recipe.objective and recipe.objective["classes"] != classes:
        raise config_lib.ConfigError(
            f"config key objective.classes={recipe.objective['classes']}, but the data set "
            f"{splits['train'].info.name} has {classes} classes"
        )
    return splits


def open_batches(recipe: Recipe, split: pipeline.Split, position: dict | None):
    """The stream of training batches, this process's rows. position: from a checkpoint."""
    batches = pipeline.train_batches(
        split,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        **recipe.input,
    )
    if position is not None:
        batches.set_state(position)
    return batches


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
    if recipe.init_from is None:
        return state, None
    return adopt(recipe.init_from, state, experiment.target), None


def adopt(path: str, state: State, target: State) -> State:
    """Start from the encoder of another run, and from its head where that fits.

    Where the other run kept an average of its weights, the average is taken. Differences are logged
    by name. Raises ValueError, naming them, where one is in the encoder.
    """
    wanted = {
        "params": target.params,
        "extra": {"stats": target.extra["stats"], "ema": target.params},
    }
    arrays, differences = checkpoint.restore_parameters(path, wanted)
    # The average is there or not; what else the other objective kept is none of ours.
    differences = {
        kind: [n for n in names if n.startswith(("params/", "extra/stats/"))]
        for kind, names in differences.items()
    }
    essential = {
        kind: [n for n in names if n.startswith(("params/encoder/", "extra/stats/"))]
        for kind, names in differences.items()
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
    extra = dict(state.extra) | {
        "stats": jax.tree.map(choose, arrays["extra"]["stats"], state.extra["stats"])
    }
    if "ema" in extra:  # copies: one buffer in two places could not be donated to the step
        start = {"ema": params, "ema_stats": extra["stats"]}
        extra |= jax.tree.map(lambda array: array.copy(), start)
    return State(state.step, params, state.opt, extra)
