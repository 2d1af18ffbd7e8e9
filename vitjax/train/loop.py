"""A run from its config to its last number, top to bottom."""

import contextlib

import jax

from vitjax import checkpoint
from vitjax import config as config_lib
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import figures, report, setup, start
from vitjax.train import recipe as recipe_lib
from vitjax.train.clock import Clock
from vitjax.train.evaluate import Rounds
from vitjax.train.guard import Preemption
from vitjax.train.metrics import Writer
from vitjax.train.terminal import Terminal
from vitjax.train.workdir import Workdir


class Preempted(Exception):
    """The run was told to leave; everything up to this step is saved."""


def run(config, workdir) -> dict[str, float]:
    """Train what a config says in a working directory, or go on with what is there.

    config: a ConfigDict or a plain dict, see recipe.Recipe. Returns the numbers of the last rounds.
    Raises ValueError (one line) for what the user can mend, and Preempted after a signal.
    """
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    recipe = recipe_lib.read(settings)
    mesh = config_lib.call(mesh_lib.make_mesh, recipe.mesh, "mesh")
    splits = start.open_splits(recipe)
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        experiment = setup.build(recipe, mesh, train_examples=len(splits["train"]))
        every, evaluate, keep = setup.intervals(recipe, len(splits["train"]))
        rounds = config_lib.call(
            Rounds, evaluate, "evaluate", recipe=recipe, experiment=experiment, splits=splits
        )
        folder = Workdir(workdir, settings)
        stack.callback(folder.close)
        checkpoints = config_lib.call(
            checkpoint.Checkpoints, keep, "checkpoint", directory=folder.path / "checkpoints"
        )
        stack.callback(checkpoints.close)

        clock = Clock(experiment.flops)
        with clock.phase("start"):
            state, position = start.first_state(recipe, experiment, checkpoints)
            first, last = int(state.step), experiment.steps
            writer = Writer(folder.path, first)
            stack.callback(writer.close)
            batches = start.open_batches(recipe, splits["train"], position)
            stack.callback(batches.close)
        terminal = Terminal(last, first)
        stack.callback(terminal.close)
        terminal.line(report.parameter_table(state.params))
        terminal.line(report.headline(recipe, experiment, splits, first))
        reporter = report.Reporter(writer, terminal, clock, every.log, last)
        preemption = stack.enter_context(Preemption())

        results = {}
        for step in range(first + 1, last + 1):
            with clock.phase("data"):
                batch = mesh_lib.put_batch(next(batches), mesh)
            with clock.phase("step"):
                state, metrics = experiment.step(state, batch)
                reporter.step(step, metrics)
                clock.count(recipe.batch_size)
            checkpoints.poll()

            leave = preemption.asked(step) and step < last
            if every.due("evaluate", step, last) and not leave and rounds.affordable(step == last):
                with clock.phase("evaluate"):
                    reporter.flush()
                    results = rounds.run(state, "validation")
                reporter.evaluation(step, "validation", results)
            if every.due("checkpoint", step, last) or leave:
                with clock.phase("save"):
                    reporter.flush()
                    checkpoints.save(step, state, batches.get_state(), results)
            if leave:
                raise Preempted(f"told to leave: step {step} of {last} is saved in {folder.path}")
        reporter.flush()
        checkpoints.wait()
        return finish(state, rounds, reporter, folder.path, last)


def finish(state, rounds: Rounds, reporter: report.Reporter, workdir, last: int) -> dict:
    """The test split, touched once in the life of a run; then the figures and the last table."""
    history = reporter.writer.history
    if "test" in rounds.splits and not any(
        name.startswith("eval/test/") for row in history for name in row
    ):
        reporter.evaluation(last, "test", rounds.run(state, "test"))
    sheet = rounds.sheet(state, "validation")
    if jax.process_index() == 0:
        figures.draw_curves(history, workdir / "figures")
        if sheet is not None:
            figures.draw_predictions(*sheet, workdir / "figures" / "predictions.png")
    final = {name: value for row in history if row["step"] == last for name, value in row.items()}
    reporter.summary(final, workdir)
    return final
