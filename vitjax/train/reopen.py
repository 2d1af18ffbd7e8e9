"""A run, or fresh weights, opened to look at the encoder: nothing is trained or written."""

import json
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from vitjax import checkpoint
from vitjax import config as config_lib
from vitjax.data import splits as splits_lib
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import recipe as recipe_lib
from vitjax.train import setup, start
from vitjax.train.evaluate import Rounds
from vitjax.train.recipe import Recipe
from vitjax.train.setup import Experiment
from vitjax.train.state import State

# How long a run trains, and how, says nothing of its encoder; other data may not even allow it.
UNTRAINED = {
    "steps": 1,
    "epochs": None,
    "examples": None,
    "optimizer": {"name": "sgd", "lr": 0.0, "schedule": {"name": "constant"}},
    "checkpoint": {},
}


class Opened(NamedTuple):
    """An encoder with its weights, and the data to look at. Use it under jax.set_mesh(mesh).

    resampled: what was moved to another image size, on one line; "" for nothing.
    """

    recipe: Recipe
    mesh: Mesh
    experiment: Experiment
    state: State
    rounds: Rounds
    resampled: str = ""


def settings_of(path) -> dict:
    """The config that a run was started with. Raises ValueError where there is none."""
    file = checkpoint.locate(path)[0] / "config.json"
    try:
        return json.loads(file.read_text())["config"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"--checkpoint={str(path)!r} is no folder of a run: {file} cannot be read "
            f"({type(error).__name__})"
        ) from error


def open_run(settings: dict, path=None) -> Opened:
    """Build what a config says, with the weights of a checkpoint, or without one as a run of this
    config would begin.

    settings: a plain dict. path: see `checkpoint.locate`. The data set may have other classes than
    the run was trained on, unless evaluators.accuracy asks for its classifier. Raises ValueError.
    """
    with config_lib.one_line():
        recipe = recipe_lib.read(settings | UNTRAINED)
        start.check(recipe)
        mesh = config_lib.call(mesh_lib.make_mesh, recipe.mesh, "mesh", devices=jax.devices())
        splits = splits_lib.open_splits(**recipe.data)
        if "accuracy" in recipe.evaluators:
            start.check_classes(recipe, splits)
        with jax.set_mesh(mesh):
            experiment = setup.build(recipe, mesh, train_examples=len(splits["train"]))
            encode, target = experiment.frozen.encode(()), experiment.target
            jax.eval_shape(encode, target.params, target.extra, setup.batch_target(recipe, mesh))
            state, resampled = weights(recipe, experiment, path)
        _, evaluate, _ = setup.intervals(recipe, len(splits["train"]))
        rounds = Rounds(recipe, experiment, splits, **evaluate)
    return Opened(recipe, mesh, experiment, state, rounds, resampled)


def weights(recipe: Recipe, experiment: Experiment, path) -> tuple[State, str]:
    """(the state to look at, what was resampled): of a checkpoint, the parameters and what is kept
    beside them."""
    if path is None:
        state = experiment.init()
        if recipe.init_from is not None:
            state = start.adopt(recipe, state, experiment.target)
        return state, ""
    workdir, step = checkpoint.locate(path)
    target = experiment.target
    wanted = {"params": target.params, "extra": target.extra}
    arrays, differences = checkpoint.restore_parameters(
        workdir, wanted, key="--checkpoint", step=step, mover=start.mover(recipe)
    )
    moved = {kind: names for kind, names in differences.items() if kind == "resampled"}
    if len(differences) > len(moved):
        raise ValueError(
            f"--checkpoint={str(path)!r} is of another model: {checkpoint.summary(differences)}"
        )
    state = State(target.step, arrays["params"], target.opt, arrays["extra"])
    return state, checkpoint.summary(moved)
