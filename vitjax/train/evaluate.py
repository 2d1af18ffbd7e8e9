"""Evaluation rounds: features of each split once, every evaluator on them, the cost of each."""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping

import numpy as np
from jax.experimental import multihost_utils

from vitjax import config as config_lib
from vitjax import evaluators
from vitjax.data import sources, subset
from vitjax.data.splits import Split
from vitjax.evaluators.features import (
    FIELDS,
    FeatureCache,
    Frozen,
    Sample,
    extract,
    in_batches,
    in_order,
    take_sample,
)
from vitjax.ops import augment
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import batches, setup
from vitjax.train.recipe import Recipe
from vitjax.train.setup import Experiment

SHEET = 40  # images of the prediction sheet
MEASURED = 16  # images whose attention or gradient is held at a time
# Settings of `data` that choose examples: what they choose is in the digest of a split.
SPLITTING = ("name", "train", "test", "validation", "minival", "fraction", "subset_seed")
# And those that say where it lies, or under what terms.
PLACES = ("path", "data_dir", "mask", "part", "depth", "points", "licence")


class Rounds:
    """Runs the evaluators of a recipe on the frozen encoder of a run.

    splits: {"train", "validation", "test"} of data.splits.open_splits. train_examples: how many of
    the train split the probes may see, class-balanced (None: all). sample_examples: how many of a
    split are looked at closely, for what reads patches, masks or altered images. time_fraction:
    share of the run's time that rounds may take; one that is due beyond it is left out (None: no
    cap). progress(what, done, of): called as a round goes on.
    """

    def __init__(
        self,
        recipe: Recipe,
        experiment: Experiment,
        splits: Mapping[str, Split],
        train_examples: int | None = None,
        sample_examples: int = 500,
        time_fraction: float | None = None,
    ):
        if recipe.evaluators and "validation" not in splits:
            raise ValueError(
                "evaluators need a validation split: set data.minival or data.validation, or leave "
                "evaluators empty"
            )
        for key, count in (("train", train_examples), ("sample", sample_examples)):
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(
                    f"config key evaluate.{key}_examples={count!r}: expected a number above 0"
                )
        self.recipe, self.experiment, self.splits = recipe, experiment, dict(splits)
        if train_examples is not None:
            self.splits["train"] = balanced(splits["train"], train_examples)[0]
        self.sample_examples, self.time_fraction = sample_examples, time_fraction
        for name in recipe.evaluators:
            require_annotations(name, self.splits["train"].source)
        self.digests: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        self.started, self.seconds = time.perf_counter(), 0.0
        self.progress: Callable[[str, int, int], None] = lambda what, done, of: None

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
        data = config_lib.settings_of(
            sources.SOURCES[self.recipe.data["name"]],
            {k: v for k, v in self.recipe.data.items() if k not in SPLITTING},
        )
        data = {key: value for key, value in data.items() if key not in PLACES}
        shared = {k: v for k, v in self.recipe.views.items() if k in ("size", "mean", "std")}
        views = config_lib.settings_of(augment.eval_views, shared | dict(self.recipe.eval_views))
        images = [self.digest(part) for part in ("train", split)]
        context = [self.recipe.data["name"], data, views, *images]
        context += [self.recipe.input["canvas"], setup.compute_dtype(self.recipe.precision)]
        if "sample" in evaluators.EVALUATORS[name].validation:
            context.append(self.sample_examples)
        return evaluators.protocol(name, self.recipe.evaluators[name], context)

    def digest(self, split: str) -> str:
        """Which images: a hash of the names of the examples and of the classes of a split."""
        if split in self.digests:
            return self.digests[split]
        part = self.splits[split]
        names = "\0".join([*part.info.names, "", *part.keys()])
        self.digests[split] = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
        return self.digests[split]

    def run(self, state, split: str) -> dict[str, float]:
        """{"eval/<split>/<evaluator>/<number>": value}, and the seconds that each took.

        An evaluator that raises a ValueError costs the others nothing: `failures` has its message,
        by name, until the next round.
        """
        start = time.perf_counter()
        self.failures = {}
        cache = FeatureCache(
            lambda part: self.features(state, part, self.fields[part == "train"]),
            lambda part: self.sample(state, part),
        )
        results = {}
        for number, (name, settings) in enumerate(self.recipe.evaluators.items()):
            evaluator = evaluators.EVALUATORS[name]
            train = cache.get("train", evaluator.train) if evaluator.train else None
            frozen = cache.get(split, evaluator.validation)
            self.progress(name, number, len(self.recipe.evaluators))
            began = time.perf_counter()
            try:
                numbers = evaluator.run(train, frozen, **settings)
            except ValueError as error:
                self.failures[name] = " ".join(str(error).split())
                continue
            results |= {f"eval/{split}/{name}/{key}": value for key, value in numbers.items()}
            results[f"eval/{split}/{name}/seconds"] = time.perf_counter() - began
            results[f"eval/{split}/{name}/protocol"] = self.protocol(name, split)
        for what, seconds in cache.seconds.items():
            results[f"eval/{split}/{what}/seconds"] = seconds
        for part, frozen in cache.frozen.items():
            if left_out := len(self.splits[part]) - len(frozen.label):
                results[f"eval/{split}/features_{part}/unreadable"] = float(left_out)
        self.seconds += time.perf_counter() - start
        return results

    @property
    def fields(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What a round asks of the encoder, of the split evaluated and of the train split."""
        rows = [evaluators.EVALUATORS[name] for name in self.recipe.evaluators]
        asked = (
            {f for row in rows for f in row.validation},
            {f for row in rows for f in row.train},
        )
        return tuple(tuple(f for f in FIELDS if f in wanted) for wanted in asked)

    def features(self, state, split: str, fields: tuple[str, ...] = ()) -> Frozen:
        """The features of a whole split, and a way to more of its augmented images."""
        encode = self.experiment.frozen.encode(fields)
        frozen = extract(
            lambda batch: encode(state.params, state.extra, batch), self.batches(split)
        )
        stream = functools.partial(self.stream, state, split, fields, frozen.rows)
        return frozen._replace(stream=stream)

    def stream(self, state, split: str, fields, places, rows, steps, batch_size, seed):
        """See Frozen.stream; places: of its rows in the split. The views of a probe have nothing to
        do with those of the run."""
        encode = self.experiment.frozen.encode(fields, seed)
        mesh_lib.check_batch(batch_size, self.experiment.mesh)
        part = self.splits[split].select(places[rows])
        with batches.training(self.recipe, part, batch_size, seed) as stream:
            for step in range(steps):
                self.progress("steps on augmented images", step, steps)
                batch = mesh_lib.put_batch(next(stream), self.experiment.mesh)
                yield Frozen(batch["label"], **encode(state.params, state.extra, batch))

    def sample(self, state, split: str, places: np.ndarray | None = None) -> Sample:
        """Some of a split with its pixels, and the encoder to look at others: the examples at
        `places`, or as many as the rounds sample, class-balanced."""
        if places is None:
            part, places = balanced(self.splits[split], self.sample_examples)
        else:
            part = self.splits[split].select(places)
        mesh, frozen = self.experiment.mesh, self.experiment.frozen
        shards = mesh_lib.batch_shards(mesh)
        size = min(self.recipe.batch_size, -(-self.sample_examples // shards) * shards)

        def put(rows):
            return mesh_lib.put_rows(rows, mesh)

        def measure(function, *arrays):
            run = frozen.measure(function)
            few = -(-MEASURED // shards) * shards
            return in_batches(lambda *rows: run(state.params, state.extra, rows), put, few)(*arrays)

        encode = in_batches(
            lambda images: frozen.look(state.params, state.extra, images), put, size
        )
        batches = self._batches(part, size, annotated=True)
        sample = take_sample(frozen.crop, encode, measure, batches)
        return sample._replace(rows=places[sample.rows])

    def crops(self, split: str, places: np.ndarray) -> np.ndarray:
        """The evaluation crops of some images, uint8 [n, S, S, 3]."""
        size = self.recipe.batch_size
        part = self._batches(self.splits[split].select(places), size)
        return in_order(self.experiment.frozen.crop(batch) for batch in part)["image"]

    def batches(self, split: str):
        """Global batches of a split, in order, once."""
        return self._batches(self.splits[split], self.recipe.batch_size)

    def _batches(self, split: Split, batch_size: int, annotated: bool = False):
        local = batches.single_pass(self.recipe, split, batch_size, annotated)
        total = -(-len(split) // batch_size)
        for number, batch in enumerate(local):
            self.progress("features", number, total)
            yield mesh_lib.put_batch(batch, self.experiment.mesh)

    def sheet(self, state, split: str):
        """(images uint8 [N, S, S, 3], labels [N], logits [N, C], class names) of some images of
        every class; None where nothing is classified."""
        if self.experiment.objective.classify is None or split not in self.splits:
            return None
        shards = mesh_lib.batch_shards(self.experiment.mesh)
        parts, rows = [], -(-SHEET // shards) * shards
        encode = self.experiment.frozen.encode(("logits",))
        for batch in self._batches(balanced(self.splits[split], SHEET)[0], rows):
            out = encode(state.params, state.extra, batch)
            rows = {"image": batch["image"], "label": batch["label"], "logits": out["logits"]}
            parts.append(multihost_utils.process_allgather(rows, tiled=True))
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        real = whole["label"] >= 0
        spread = np.linspace(0, real.sum() - 1, min(SHEET, real.sum())).astype(int)
        images, labels, logits = (
            whole[name][real][spread] for name in ("image", "label", "logits")
        )
        return images, labels, logits, self.splits[split].info.names


def require_annotations(name: str, source) -> None:
    """Raise ValueError where a data set does not know what an evaluator needs of its pixels."""
    needs = evaluators.EVALUATORS[name].needs
    if needs and not set(needs) & set(source.annotations):
        raise ValueError(
            f"evaluators.{name} needs a data set that knows the {' or '.join(needs)} of an image; "
            f"{source.info.name} does not: remove the evaluator, or change data"
        )


def balanced(split: Split, examples: int) -> tuple[Split, np.ndarray]:
    """About so many examples of a split, the same share of every class, and their places in it."""
    if examples >= len(split):
        return split, np.arange(len(split))
    places = subset.subset(split.keys(), split.labels, examples / len(split))
    return split.select(places), places
