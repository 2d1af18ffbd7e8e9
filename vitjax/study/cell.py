"""One cell of a study: a run for each learning rate, the choice, and the test, once."""

import functools
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import jax

from vitjax import config as config_lib
from vitjax.data import splits as splits_lib
from vitjax.lookup import nearest
from vitjax.sharding import mesh as mesh_lib
from vitjax.study import budget, results
from vitjax.study.grid import Cell, Plan
from vitjax.train import loop, reopen, report, setup, workdir
from vitjax.train import recipe as recipe_lib


def run(
    plan: Plan, cell: Cell, folder: Path, progress: Callable[[str], None] = lambda what: None
) -> dict:
    """Run what is not done yet of a cell; returns and writes its result (results.py).

    A run that diverges loses to those that do not. Raises ValueError where none is left, or where
    an evaluator has no number.
    """
    started = time.perf_counter()
    settings = plan.shared(cell)
    splits = splits_lib.open_splits(**settings["data"])
    for part, key in {"validation": "minival", "test": "test"}.items():
        if part not in splits:
            raise ValueError(f"a study needs a {part} split: data.{key} leaves it out")
    flops, reference = flops_of(plan, cell)
    steps = budget.steps(
        plan.grid.budgets[cell.budget],
        examples=len(splits["train"]),
        batch_size=settings["batch_size"],
        flops=flops,
        reference=reference,
    )
    rates = plan.grid.rates(cell.encoder)
    trials = []
    for place, lr in enumerate(rates, start=1):
        progress(f"rate {place} of {len(rates)}")
        trials.append(_trial(plan, cell, lr, steps, folder / "trials" / f"{lr:g}"))
    best = max(trials, key=lambda trial: trial["rank"])
    if best["score"] is None:
        raise ValueError(f"none of the rates {', '.join(map(str, rates))} worked: {best['error']}")
    progress("test")
    tested = _test(settings, folder / "trials" / f"{best['lr']:g}")
    result = {
        "cell": cell._asdict(),
        "digest": plan.digest(cell),
        "images": len(splits["train"]),
        "subset": digest_of(splits["train"].keys()),
        "validation_images": len(splits["validation"]),
        "test_images": len(splits["test"]),
        "steps": steps,
        "batch_size": settings["batch_size"],
        "epochs": steps * settings["batch_size"] / len(splits["train"]),
        "flops_per_image": flops,
        "flops": flops * settings["batch_size"] * steps,
        "lr": best["lr"],
        "train_top1": best["train_top1"],
        "trials": [{k: v for k, v in trial.items() if k != "rank"} for trial in trials],
        **tested,
        "seconds": time.perf_counter() - started,
        "environment": workdir.environment(),
    }
    if jax.process_index() == 0:
        results.write(folder, result)
        for trial in trials:  # what was not chosen keeps its numbers, not its weights
            if trial is not best:
                shutil.rmtree(folder / "trials" / f"{trial['lr']:g}" / "checkpoints", True)
    return result


def _trial(plan: Plan, cell: Cell, lr: float, steps: int, path: Path) -> dict:
    """The run of one rate; one that is there already only tells its numbers again."""
    number = f"eval/validation/{plan.grid.chosen_by(cell.objective)}"
    started = time.perf_counter()
    trial = {"lr": lr, "score": None, "cross_entropy": None, "train_top1": None, "error": ""}
    try:
        final = loop.run(plan.trial(cell, lr, steps), path)
        if number not in final:
            near = nearest(number, [k for k in final if k.startswith("eval/")])
            raise ValueError(f"sweep.choose: a run has no number {number!r}; {near}")
        trial["score"] = final[number]
        trial["cross_entropy"] = final.get("eval/validation/accuracy/cross_entropy")
        trial["train_top1"] = final.get("train/top1")
    except ValueError as error:
        trial["error"] = " ".join(str(error).split())
    # Small validation splits have ties: among equals the lower cross-entropy, then the lower rate.
    score, loss = trial["score"], trial["cross_entropy"]
    trial["rank"] = (
        -math.inf if score is None else score,
        -math.inf if loss is None else -loss,
        -lr,
    )
    return trial | {"seconds": time.perf_counter() - started}


def _test(settings: dict, path: Path) -> dict:
    """The chosen run on the test split: every evaluator of the config."""
    opened = reopen.open_run(settings, path)
    with jax.set_mesh(opened.mesh):
        found = opened.rounds.run(opened.state, "test")
    if opened.rounds.failures:
        name, message = next(iter(opened.rounds.failures.items()))
        raise ValueError(f"no number of {name}: {message}")
    state, experiment = opened.state, opened.experiment
    encoder = experiment.objective.encoder_variables(state.params, state.extra)
    numbers = {k.removeprefix("eval/test/"): v for k, v in found.items()}
    return {
        "encoder": experiment.encoder.name,
        "parameters": report.count(encoder["params"]),
        "numbers": {k: v for k, v in numbers.items() if not k.endswith(("seconds", "protocol"))},
        "protocols": {k: v for k, v in numbers.items() if k.endswith("protocol")},
    }


def flops_of(plan: Plan, cell: Cell) -> tuple[float, float]:
    """FLOPs of one image, forward and backward: of the cell's encoder, and of the one its budget
    names."""
    other = plan.grid.budgets[cell.budget].get("flops_of", cell.encoder)
    return tuple(
        _flops(json.dumps(plan.trial(cell._replace(encoder=encoder), 1.0, 100)))
        for encoder in (cell.encoder, other)
    )


@functools.cache
def _flops(settings: str) -> float:
    """settings: a config as JSON, which can be a key."""
    recipe = recipe_lib.read(json.loads(settings))
    mesh = config_lib.call(mesh_lib.make_mesh, recipe.mesh, "mesh", devices=jax.devices())
    with jax.set_mesh(mesh):
        return setup.build(recipe, mesh, train_examples=recipe.batch_size).flops


def digest_of(keys) -> str:
    """8 hex digits that name a subset."""
    return hashlib.sha256("\0".join(sorted(keys)).encode(errors="surrogateescape")).hexdigest()[:8]
