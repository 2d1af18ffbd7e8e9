"""A signal is noted and not obeyed at once; numbers that stay broken end the run."""

import os
import signal

import pytest

from vitjax.train.guard import Preemption, SkipCounter


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Preemption() as preemption:
        assert not preemption.asked(1)
        os.kill(os.getpid(), number)
        assert preemption.asked(2)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_acts_at_once():
    with Preemption():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_only_skips_in_a_row_end_a_run():
    skips = SkipCounter(most=3)
    for step, skipped in enumerate((1, 1, 0, 1, 1), start=1):
        skips.see(step, {"skipped": skipped, "loss": 1.0})
    with pytest.raises(ValueError, match="3 steps in a row up to step 6"):
        skips.see(6, {"skipped": 1, "loss": float("nan")})
