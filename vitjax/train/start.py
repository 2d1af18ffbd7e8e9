"""Where a run begins: its data, and its own checkpoint, another run's weights, or nothing."""

import jax
from absl import logging

from vitjax import checkpoint
from vitjax import config as config_lib
from vitjax.data import pipeline, sources
from vitjax.train.recipe import Recipe
from vitjax.train.setup import Experiment
from vitjax.train.state import State


def open_splits(recipe: Recipe) -> dict[str, pipeline.Split]:
    """{"train", "validation", "test"}: the splits that `data` names. Raises ValueError where they
    do not fit the objective's classes."""
    source = config_lib.named(sources.SOURCES, recipe.data, "data")
    config_lib.check(pipeline.open_splits, recipe.data, "data", given=("split",), beyond=source)
    splits = pipeline.open_splits(**recipe.data)
    classes = splits["train"].info.classes
    if recipe.objective.get("classes", classes) != classes:
        raise config_lib.ConfigError(
            f"config key objective.classes={recipe.objective['classes']}, but the data set "
            f"{splits['train'].info.name} has {classes} classes"
        )
    return splits


def open_batches(recipe: Recipe, split: pipeline.Split, position: dict | None):
    """The stream of training batches, this process's rows. position: from a checkpoint."""
    batches = config_lib.call(
        pipeline.train_batches,
        recipe.input,
        "input",
        split=split,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
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

    Differences are logged by name. Raises ValueError, naming them, where one is in the encoder.
    """
    wanted = {"params": target.params, "extra": target.extra}
    arrays, differences = checkpoint.restore_parameters(path, wanted)
    essential = {
        kind: [name for name in names if name.startswith(("params/encoder/", "extra/stats/"))]
        for kind, names in differences.items()
    }
    essential = {kind: names for kind, names in essential.items() if names}
    if essential:
        raise ValueError(
            f"init_from={path!r} holds another encoder: {checkpoint.summary(essential)}"
        )
    if differences:
        logging.warning("init_from=%r: %s", path, checkpoint.summary(differences, most=20))

    def choose(new, old):
        return old if isinstance(new, jax.ShapeDtypeStruct) else new

    return State(
        state.step,
        jax.tree.map(choose, arrays["params"], state.params),
        state.opt,
        jax.tree.map(choose, arrays["extra"], state.extra),
    )
