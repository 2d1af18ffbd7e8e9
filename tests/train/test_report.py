"""Metrics are read one step late, averaged over what is finite, and shown once."""

import jax.numpy as jnp
import pytest

from vitjax.train.clock import Clock
from vitjax.train.report import Reporter, notes
from vitjax.train.terminal import Terminal


class Rows(list):
    """A writer that keeps its rows."""

    def write(self, step, values):
        self.append((step, values))


@pytest.fixture
def reporter():
    terminal = Terminal(steps=4, first=0)
    return Reporter(Rows(), terminal, Clock(flops=1.0), every=2, last=4)


def values(loss, rate=0.1):
    skipped = float(not jnp.isfinite(loss))
    named = {"loss": loss, "learning_rate": rate, "skipped": skipped}
    return {name: jnp.float32(value) for name, value in named.items()}


def test_a_step_is_read_when_the_next_one_is_under_way(reporter):
    for step, (loss, rate) in enumerate(((3.0, 0.1), (1.0, 0.2)), start=1):
        reporter.step(step, values(loss, rate))
    assert reporter.writer == []
    reporter.step(3, values(9.0))
    ((step, row),) = reporter.writer
    assert step == 2 and row["train/loss"] == pytest.approx(2.0)
    assert row["train/learning_rate"] == pytest.approx(0.2)  # the latest, no mean


def test_means_are_of_the_steps_that_are_finite(reporter):
    for step, loss in enumerate((float("nan"), 1.0, float("inf"), float("nan")), start=1):
        reporter.step(step, values(loss))
    reporter.flush()
    assert [row["train/loss"] for _, row in reporter.writer] == [1.0, None]
    assert [row["train/skipped"] for _, row in reporter.writer] == [0.5, 1.0]


def test_without_a_terminal_there_are_plain_lines(reporter, capsys):
    for step in (1, 2, 3, 4):
        reporter.step(step, values(0.5))
        reporter.clock.count(8)
    reporter.flush()
    (line,) = capsys.readouterr().err.splitlines()  # the last step always, others every few seconds
    assert line.startswith("step 4/4  loss 0.5000") and "images/s" in line
    assert line.endswith("0:00:00 left")


def test_an_alarm_is_said_once_for_as_long_as_it_goes_on(capsys):
    def alarm(step, metrics):
        return f"collapse: loss is {metrics['loss']:.3g}; lower lr" if metrics["loss"] < 1 else ""

    terminal = Terminal(steps=10, first=0)
    reporter = Reporter(Rows(), terminal, Clock(flops=1.0), 1, 20, alarm)
    for step, loss in enumerate((3.0, 0.5, 0.25, 2.0, 0.125), start=1):
        reporter.step(step, values(loss))
    reporter.flush()
    said = [line for line in capsys.readouterr().err.splitlines() if "collapse" in line]
    want = ("step 2: collapse: loss is 0.5; lower lr", "step 5: collapse: loss is 0.125; lower lr")
    assert tuple(said) == want


def test_a_run_says_what_the_sizes_decided_and_what_to_expect():
    class Objective:
        expect = "expect 7"

    lines = notes({"name": "x", "a": 1}, {"name": "x", "a": 1, "b": 2}, Objective)
    assert lines == [
        "from the sizes of data and batch: b=2 (each an objective.* to set)",
        "expect 7",
    ]
    Objective.expect = ""
    assert notes({"a": 1}, {"a": 1}, Objective) == []
