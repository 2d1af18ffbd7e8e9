"""From the results of a study to its curves, fits and pairs.

A view is one objective under one budget; a measure is one number of the test split in it, as the
accuracy of the trained head. n sizes, S seeds.
"""

import itertools
from typing import NamedTuple

import numpy as np

from vitjax.study import curves, pairs
from vitjax.study.curves import Fitted, Series
from vitjax.study.pairs import Pair
from vitjax.study.results import Study

# What is asked of every study, where it was evaluated; the first that is there is the primary one,
# fixed before any number is seen. (how a number's name begins, what to call it)
MEASURES = (
    ("accuracy/top1", "accuracy"),
    ("linear/top1", "linear probe"),
    ("knn/top1", "kNN"),
)
# Evaluators whose numbers are plotted against data as they are: measures of bias.
BIAS = ("bias", "shift", "shuffle", "cue_conflict")


class Measure(NamedTuple):
    """number: its name in the results. series, in the order of the encoders. fits: by encoder, None
    where there are too few sizes. pairs: (first, second) -> Pair, in both orders."""

    number: str
    label: str
    series: tuple[Series, ...]
    fits: dict[str, Fitted | None]
    pairs: dict[tuple[str, str], Pair]

    @property
    def ordered(self) -> list[Pair]:
        """Each pair once, as the encoders stand in the grid."""
        names = [series.name for series in self.series]
        return [self.pairs[pair] for pair in itertools.combinations(names, 2)]


class View(NamedTuple):
    """images: [n]. encoders: those with a result. cost: encoder -> what a run of it costs, see
    `_cost`. train: encoder -> accuracy on the training views [n, S]. bias: number -> encoder ->
    values [n, S]. rates: encoder -> {rate: how often it was chosen}."""

    objective: str
    budget: str
    images: np.ndarray
    encoders: tuple[str, ...]
    measures: tuple[Measure, ...]
    cost: dict[str, dict]
    train: dict[str, np.ndarray]
    bias: dict[str, dict[str, np.ndarray]]
    rates: dict[str, dict[float, int]]
    test_images: int


def analyse(study: Study, replicates: int = curves.REPLICATES) -> list[View]:
    """One view for each objective and budget that has results."""
    grid = study.plan.grid
    found = []
    for objective, budget in itertools.product(grid.objectives, grid.budgets):
        mine = [
            result
            for result in study.results
            if (result["cell"]["objective"], result["cell"]["budget"]) == (objective, budget)
        ]
        if mine:
            found.append(_view(grid, objective, budget, mine, replicates))
    return found


def _view(grid, objective, budget, mine, replicates) -> View:
    encoders = tuple(e for e in grid.encoders if any(r["cell"]["encoder"] == e for r in mine))
    fractions = [f for f in sorted(grid.fractions) if any(r["cell"]["fraction"] == f for r in mine)]
    places = {
        (r["cell"]["encoder"], fractions.index(r["cell"]["fraction"]), r["cell"]["seed"]): r
        for r in mine
    }
    images = np.array(
        [np.median([r["images"] for r in mine if r["cell"]["fraction"] == f]) for f in fractions]
    )

    def table(read):
        """encoder -> values [n, S], NaN where a cell is missing."""
        out = {e: np.full((len(fractions), len(grid.seeds)), np.nan) for e in encoders}
        for (encoder, row, seed), result in places.items():
            value = read(result)
            out[encoder][row, grid.seeds.index(seed)] = np.nan if value is None else value
        return out

    test_images = max(r["test_images"] for r in mine)
    draws = curves.seed_draws(len(fractions), len(grid.seeds), replicates=replicates)
    measures = []
    for begin, label in MEASURES:
        number = shared_number(mine, begin)
        if number is not None:
            scores = table(lambda result, number=number: result["numbers"][number])
            measures.append(_measure(number, label, images, scores, 0.5 / test_images, draws))
    names = {k for r in mine for k in r["numbers"] if is_bias(k)}
    return View(
        *(objective, budget, images, encoders, tuple(measures)),
        cost={
            e: _cost([r for r in mine if r["cell"]["encoder"] == e], fractions) for e in encoders
        },
        train=table(lambda result: result["train_top1"]),
        bias={k: table(lambda r, k=k: r["numbers"].get(k)) for k in sorted(names)},
        rates={
            e: {
                lr: sum(r["lr"] == lr for r in mine if r["cell"]["encoder"] == e)
                for lr in grid.rates(e)
            }
            for e in encoders
        },
        test_images=test_images,
    )


def is_bias(number: str) -> bool:
    """Whether it is a measure of bias: not the accuracy on unchanged images that stands beside."""
    evaluator, _, key = number.partition("/")
    return evaluator.startswith(BIAS) and key != "top1"


def shared_number(results, begin: str) -> str | None:
    """The first number of such a beginning that every result has: a k of kNN may be above the
    smallest subset."""
    names = [name for name in results[0]["numbers"] if name.startswith(begin)]
    return next((n for n in names if all(n in r["numbers"] for r in results)), None)


def _measure(number, label, images, scores, least, draws) -> Measure:
    series = tuple(Series(name, images, 1 - values, least) for name, values in scores.items())
    fits = {each.name: curves.fit_series(each, draws) for each in series}
    found = {}
    for a, b in itertools.permutations(series, 2):
        pair = pairs.compare(a, b, draws)
        if fits[a.name] is not None and fits[b.name] is not None:
            share = pairs.share_beyond(fits[a.name], fits[b.name], float(images[-1]))
            pair = pair._replace(share_beyond=share)
        found[a.name, b.name] = pair
    return Measure(number, label, series, fits, found)


def _cost(results, fractions) -> dict:
    """{"encoder": its name, "parameters", "flops_per_image", "flops" and "steps" of a run [n]}."""
    first = results[0]
    flops = [[r["flops"] for r in results if r["cell"]["fraction"] == f] for f in fractions]
    steps = [[r["steps"] for r in results if r["cell"]["fraction"] == f] for f in fractions]
    return {
        "encoder": first["encoder"],
        "parameters": first["parameters"],
        "flops_per_image": first["flops_per_image"],
        "flops": np.array([np.mean(each) if each else np.nan for each in flops]),
        "steps": np.array([np.mean(each) if each else np.nan for each in steps]),
    }
