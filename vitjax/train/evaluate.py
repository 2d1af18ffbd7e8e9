"""Evaluation rounds: features of each split once, every evaluator on them, the cost of each."""

import time
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from vitjax import evaluators
from vitjax.data import pipeline, subset
from vitjax.data.splits import Split
from vitjax.evaluators.features import FeatureCache
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import setup
from vitjax.train.recipe import Recipe
from vitjax.train.setup import Experiment

SHEET = 40  # images of the prediction sheet
TRAINING_ONLY = ("workers", "shuffle")  # settings of `input` that a pass has no use for


class Rounds:
    """Runs the evaluators of a recipe on the frozen encoder of a run.

    splits: {"train", "validation", "test"} of data.splits.open_splits. train_examples: how many of
    the train split the probes may see, class-balanced (None: all). time_fraction: share of the
    run's time that rounds may take; one that is due beyond it is left out (None: no cap).
    """

    def __init__(
        self,
        recipe: Recipe,
        experiment: Experiment,
        splits: Mapping[str, Split],
        train_examples: int | None = None,
        time_fraction: float | None = None,
    ):
        if recipe.evaluators and "validation" not in splits:
            raise ValueError(
                "evaluators need a validation split: set data.minival or data.validation, or leave "
                "evaluators empty"
            )
        self.recipe, self.experiment, self.splits = recipe, experiment, dict(splits)
        if train_examples is not None:
            self.splits["train"] = balanced(splits["train"], train_examples)
        self.time_fraction = time_fraction
        self.started, self.seconds = time.perf_counter(), 0.0

    def affordable(self, last: bool) -> bool:
        """Whether another round fits the cap; the last always does. Equal on every host."""
        if not self.recipe.evaluators:
            return False
        if last or self.time_fraction is None:
            return True
        elapsed = time.perf_counter() - self.started
        fits = self.seconds <= self.time_fraction * elapsed
        return bool(multihost_utils.broadcast_one_to_all(np.asarray(fits)))

    def protocol(self, name: str, split: str) -> str:
        """A hash of all that the numbers of an evaluator depend on, the weights apart."""
        data = {k: v for k, v in self.recipe.data.items() if k not in ("path", "data_dir")}
        views = {k: v for k, v in self.recipe.views.items() if k in ("size", "mean", "std")}
        images = [f"{part} {len(self.splits[part])}" for part in ("train", split)]
        context = [data, views, self.recipe.eval_views, *images]
        context += [self.recipe.input["canvas"], setup.compute_dtype(self.recipe.precision)]
        return evaluators.protocol(name, self.recipe.evaluators[name], context)

    def run(self, state, split: str) -> dict[str, float]:
        """{"eval/<split>/<evaluator>/<number>": value}, and the seconds that each took."""
        start = time.perf_counter()
        encode = self.experiment.encode
        cache = FeatureCache(lambda batch: encode(state.params, state.extra, batch), self.batches)
        results = {}
        for name, settings in self.recipe.evaluators.items():
            evaluator = evaluators.EVALUATORS[name]
            train = cache.get("train") if evaluator.needs_train else None
            frozen = cache.get(split)
            began = time.perf_counter()
            numbers = evaluator.run(train, frozen, **settings)
            results |= {f"eval/{split}/{name}/{key}": value for key, value in numbers.items()}
            results[f"eval/{split}/{name}/seconds"] = time.perf_counter() - began
            results[f"eval/{split}/{name}/protocol"] = self.protocol(name, split)
        for part, seconds in cache.seconds.items():
            results[f"eval/{split}/features_{part}/seconds"] = seconds
        self.seconds += time.perf_counter() - start
        return results

    def batches(self, split: str):
        """Global batches of a split, in order, once."""
        return self._batches(self.splits[split], self.recipe.batch_size)

    def _batches(self, split: Split, batch_size: int):
        settings = {
            key: value for key, value in self.recipe.input.items() if key not in TRAINING_ONLY
        }
        local = pipeline.eval_batches(
            split,
            batch_size=batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            **settings,
        )
        for batch in local:
            yield mesh_lib.put_batch(batch, self.experiment.mesh)

    def sheet(self, state, split: str):
        """(images uint8 [N, S, S, 3], labels [N], logits [N, C], class names) of some images of
        every class; None where nothing is classified."""
        if self.experiment.objective.classify is None or split not in self.splits:
            return None
        shards = mesh_lib.batch_shards(self.experiment.mesh)
        parts, rows = [], -(-SHEET // shards) * shards
        for batch in self._batches(balanced(self.splits[split], SHEET), rows):
            out = self.experiment.encode(state.params, state.extra, batch)
            rows = {"image": batch["image"], "label": batch["label"], "logits": out["logits"]}
            parts.append(multihost_utils.process_allgather(rows, tiled=True))
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        real = whole["label"] >= 0
        spread = np.linspace(0, real.sum() - 1, min(SHEET, real.sum())).astype(int)
        images, labels, logits = (
            whole[name][real][spread] for name in ("image", "label", "logits")
        )
        return images, labels, logits, self.splits[split].info.names


def balanced(split: Split, examples: int) -> Split:
    """About so many examples of a split, the same share of every class."""
    if examples >= len(split):
        return split
    return split.select(subset.subset(split.keys(), split.labels, examples / len(split)))
