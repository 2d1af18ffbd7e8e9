"""Rows of input.py's table, and how they are timed."""

import statistics
import time

ROUNDS, CANVAS, SIZE = 3, 256, 224


def in_turns(works: dict, images: int) -> dict:
    """CPU milliseconds per image of each work, taken in turns: the median of ROUNDS."""
    taken = {name: [] for name in works}
    for turn in range(1 + ROUNDS):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:
                taken[name].append(1000 * (time.process_time() - start) / images)
    return {name: statistics.median(each) for name, each in taken.items()}


def row(part, what, ms, against="", value=""):
    """against: what `value` is, a ratio unless it names a unit."""
    out = {"part": part, "what": what, "ms": ms, "x": 1000 / ms if ms else ""}
    return out | {"against": against, "value": value}
