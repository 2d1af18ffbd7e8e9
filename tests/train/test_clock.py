"""Speed is that of training alone."""

import pytest

from vitjax.train import clock as clock_lib


@pytest.fixture
def time_of_day(monkeypatch):
    """A clock that moves only when told: `time_of_day[0] += seconds`."""
    now = [100.0]
    monkeypatch.setattr(clock_lib.time, "perf_counter", lambda: now[0])
    return now


def spend(clock, now, phase, seconds):
    with clock.phase(phase):
        now[0] += seconds


def test_speed_leaves_out_compilation_evaluation_and_saving(time_of_day):
    clock = clock_lib.Clock(flops=1.0)
    spend(clock, time_of_day, "step", 60.0)  # compiles
    clock.count(8)
    assert clock.report() == {}
    for data, evaluate in ((1.0, 30.0), (0.5, 0.0)):
        spend(clock, time_of_day, "data", data)
        spend(clock, time_of_day, "step", 2.0)
        clock.count(8)
        spend(clock, time_of_day, "evaluate", evaluate)
        spend(clock, time_of_day, "save", 0.25)
    speed = clock.report()
    assert speed["speed/images_per_second"] == pytest.approx(16 / 5.5)
    assert speed["speed/step_ms"] == pytest.approx(1e3 * 5.5 / 2)
    assert speed["speed/data_wait"] == pytest.approx(1.5 / 5.5)
    assert clock.report() == {}  # nothing since


def test_goodput_shares_are_of_the_wall_time(time_of_day):
    clock = clock_lib.Clock(flops=1.0)
    spend(clock, time_of_day, "start", 1.0)
    spend(clock, time_of_day, "step", 6.0)
    time_of_day[0] += 3.0
    assert clock.goodput() == {"goodput/start": 0.1, "goodput/step": 0.6}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("NVIDIA H200", 989e12), ("cpu", None)],
)
def test_the_peak_is_that_of_the_longest_name_that_fits(kind, peak):
    assert clock_lib.peak_flops(kind) == peak
