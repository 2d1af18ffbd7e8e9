"""A run from its config to its last number, top to bottom."""

import contextlib

import jax
import numpy as np
from jax.experimental import multihost_utils

from vitjax import checkpoint
from vitjax.sharding import mesh as mesh_lib
from vitjax.train import figures, report, start
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
    prepared = start.prepare(settings)
    recipe, resolved, mesh, splits, experiment, every, rounds, keep = prepared
    with jax.set_mesh(mesh), contextlib.ExitStack() as stack:
        folder = Workdir(workdir, resolved)
        stack.callback(folder.close)
        checkpoints = checkpoint.Checkpoints(folder.path / "checkpoints", **keep)
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
        rounds.progress = terminal.evaluating
        terminal.line(report.parameter_table(state.params))
        terminal.line(report.headline(recipe, experiment, splits, first))
        for line in report.notes(settings["objective"], recipe.objective, experiment.objective):
            terminal.line(line)
        alarm = experiment.objective.alarm
        reporter = report.Reporter(writer, terminal, clock, every.log, last, alarm)
        # A run that was told to leave, or failed, as a round was due makes up for it.
        missed = (
            first > 0 and every.due("evaluate", first, last) and rounds.affordable(first == last)
        )
        if missed and not on_record(writer.history, "eval/validation/", first):
            validate(first, state, rounds, reporter)

        with Preemption() as preemption:
            for step in range(first + 1, last + 1):
                with clock.phase("data"):
                    batch = mesh_lib.put_batch(next(batches), mesh)
                with clock.phase("step"):
                    state, metrics = experiment.step(state, batch)
                    reporter.step(step, metrics)
                clock.count(recipe.batch_size)
                with clock.phase("save"):
                    checkpoints.poll()

                leave = preemption.asked(step) and step < last
                evaluate = every.due("evaluate", step, last) and not leave
                evaluate = evaluate and rounds.affordable(step == last)
                save = every.due("checkpoint", step, last) or leave
                save = save or (evaluate and checkpoints.best is not None)
                if not (evaluate or save):
                    continue
                with clock.phase("step"):
                    reporter.flush()
                results = {}
                try:
                    if evaluate:
                        results = validate(step, state, rounds, reporter)
                except Exception:  # the round is lost, not what was learned
                    if jax.process_count() == 1:  # of several, others may not have failed
                        checkpoints.save(step, state, batches.get_state(), {})
                    raise
                if save:
                    reporter.log(step)
                    with clock.phase("save"):
                        checkpoints.save(step, state, batches.get_state(), results)
                if leave:
                    raise Preempted(f"told to leave: step {step} of {last} is saved in {workdir}")
            checkpoints.wait()
        reporter.unreadable(batches.skipped)
        return finish(state, rounds, reporter, folder.path, last, every.figures)


def validate(step: int, state, rounds: Rounds, reporter: report.Reporter) -> dict:
    """One round on the validation split."""
    with reporter.clock.phase("evaluate"):
        results = rounds.run(state, "validation")
    reporter.evaluation(step, "validation", results, rounds.failures)
    return results


def on_record(history: list[dict], prefix: str, step: int | None = None) -> bool:
    """Whether there is a number of such a name, at this step or at any.

    Only process 0 has read the history of a run that goes on: it tells the others.
    """
    rows = [row for row in history if step is None or row["step"] == step]
    found = any(name.startswith(prefix) for row in rows for name in row)
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(found)))


def finish(
    state, rounds: Rounds, reporter: report.Reporter, workdir, last: int, drawn: bool
) -> dict:
    """The test split, touched once in the life of a run; then the figures and the last table."""
    history = reporter.writer.history
    done = on_record(history, "eval/test/")
    if rounds.recipe.evaluators and "test" in rounds.splits and not done:
        results = rounds.run(state, "test")
        reporter.evaluation(last, "test", results, rounds.failures)
    if drawn:
        sheet = rounds.sheet(state, "validation")
        if jax.process_index() == 0:
            figures.draw_curves(history, workdir / "figures")
            if sheet is not None:
                figures.draw_predictions(*sheet, workdir / "figures" / "predictions.png")
    final = {name: value for row in history if row["step"] == last for name, value in row.items()}
    reporter.summary(final, workdir)
    return final
