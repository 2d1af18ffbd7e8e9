"""vitjax evaluate: what the frozen features of a checkpoint know, on any data set."""

import argparse

import jax
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vitjax.lookup import nearest
from vitjax.train import metrics, reopen, report, workdir
from vitjax.train.terminal import numbers_table
from vitjax.verbs import arguments


def run(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="vitjax evaluate", description=__doc__)
    arguments.add_to(parser)
    parser.add_argument(
        "--evaluators",
        help="names, with commas: knn,linear; settings by --set evaluators.linear.steps=1000 "
        "(default: those of the config)",
    )
    parser.add_argument("--split", default="validation", choices=["validation", "test"])
    parser.add_argument("--out", help="a JSON file for numbers, protocols, versions and config")
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax's word on reading without writing
    settings = arguments.settings_of(args)
    settings["evaluators"] = chosen(args, settings)
    if args.out is not None:
        arguments.require_writable(args.out)
    opened = reopen.open_run(settings, args.checkpoint)
    if args.split not in opened.rounds.splits:
        raise ValueError(
            f"--split={args.split}: the data set has none; use another split or data set"
        )
    results = evaluate(opened, args.split)
    failures = opened.rounds.failures
    if args.out is not None and jax.process_index() == 0:
        record = {"split": args.split, "results": metrics.finite(results), "failures": failures}
        arguments.write_json(args.out, record | {"config": settings} | workdir.environment())
    if failures:
        raise ValueError("; ".join(f"no number of {n}: {text}" for n, text in failures.items()))


def chosen(args: argparse.Namespace, settings: dict) -> dict:
    """The evaluators and their settings; every one that --set names has to be among them."""
    given = settings.get("evaluators", {})
    if not isinstance(given, dict):
        raise ValueError(f"config key evaluators={given!r}: expected names with their settings")
    if args.evaluators is None:
        names = list(given)
    else:
        names = [name for name in args.evaluators.split(",") if name]
    for text in args.set:
        path = text.partition("=")[0].split(".")
        if path[0] == "evaluators" and len(path) > 1 and path[1] not in names:
            raise ValueError(
                f"--set {text!r}: {path[1]} is not evaluated; {nearest(path[1], names)}"
            )
    if not names:
        raise ValueError("there is nothing to evaluate: name some in --evaluators")
    return {name: given.get(name, {}) for name in names}


def evaluate(opened: reopen.Opened, split: str) -> dict:
    """One round, with its progress, a table and what it cost, on standard error."""
    console = Console(stderr=True, quiet=jax.process_index() != 0, markup=False)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("compiling", total=None)
        opened.rounds.progress = lambda what, done, of: bar.update(
            task, description=f"{what} {done}/{of}", completed=done, total=of
        )
        with jax.set_mesh(opened.mesh):
            results = opened.rounds.run(opened.state, split)
    info = opened.rounds.splits[split].info
    title = f"{opened.experiment.encoder.name} on {info.name}, {split}"
    shown = {
        name.removeprefix(f"eval/{split}/"): value
        for name, value in metrics.finite(results).items()
        if not name.endswith("seconds")
    }
    console.print(title, highlight=False, soft_wrap=True)
    if opened.resampled:
        console.print(opened.resampled, highlight=False, soft_wrap=True)
    console.print(numbers_table(shown))
    console.print(report.cost(split, results), highlight=False, soft_wrap=True)
    return results
