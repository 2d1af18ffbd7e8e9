"""What stops a run early: a signal to leave, or numbers that are no longer numbers."""

import signal

import jax
from jax.experimental import multihost_utils

SKIPS = 10


class Preemption:
    """Asks, each step, whether this run was told to leave (SIGTERM, or Ctrl-C once).

    With several processes jax's coordination service turns one SIGTERM into a common step for all;
    every process has to ask at every step. A single process has no such service: a handler notes
    the signal. A second Ctrl-C acts at once.
    """

    def __init__(self):
        self._noted = None
        self._previous = {}

    def __enter__(self):
        if jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        return False

    def _note(self, number, _frame):
        if self._noted is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._noted = number

    def asked(self, step: int) -> bool:
        """Whether to save and leave after this step."""
        if jax.process_count() == 1:
            return self._noted is not None
        return multihost_utils.reached_preemption_sync_point(step)


class SkipCounter:
    """Counts updates skipped because loss or gradient was not finite; many in a row end the run."""

    def __init__(self, most: int = SKIPS):
        self.most = most
        self.row = 0

    def see(self, step: int, metrics: dict) -> None:
        """metrics: of one step. Raises ValueError after `most` skips in a row."""
        self.row = self.row + 1 if metrics["skipped"] else 0
        if self.row >= self.most:
            raise ValueError(
                f"loss or gradient was not finite for {self.row} steps in a row up to step {step} "
                f"(loss {metrics['loss']}): lower optimizer.lr or set optimizer.clip_norm"
            )
