"""Batches of a split, read as a recipe says: the rows of this process."""

import jax

from vitjax.data import pipeline
from vitjax.data.splits import Split
from vitjax.train.recipe import Recipe

TRAINING_ONLY = (
    "workers",
    "shuffle",
    "crop",
)  # settings of `input` that a single pass has no use for


def training(recipe: Recipe, split: Split, batch_size: int, seed: int) -> pipeline.TrainBatches:
    """The endless stream, see pipeline.train_batches."""
    return pipeline.train_batches(
        split, batch_size=batch_size, seed=seed, **processes(), **recipe.input
    )


def single_pass(recipe: Recipe, split: Split, batch_size: int, annotated: bool = False):
    """Every example once, in order, see pipeline.eval_batches."""
    settings = {key: value for key, value in recipe.input.items() if key not in TRAINING_ONLY}
    return pipeline.eval_batches(
        split, batch_size=batch_size, annotated=annotated, **processes(), **settings
    )


def processes() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}
