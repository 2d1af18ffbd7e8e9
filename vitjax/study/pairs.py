"""Two encoders on the same seeds: who is ahead, by how much, and where the lead changes.

Three measures that can tell opposite stories: the gap in points, the ratio of errors, and the data
multiplier, how many times the images one needs to be as good as the other. All are paired: runs of
one seed share their subset, their order and their views. `first` and `second` stand for the two.
"""

import itertools
from typing import NamedTuple

import numpy as np

from vitjax.study import curves
from vitjax.study.curves import Series

BEYOND = 3.0  # times the largest size: as far as the bootstrap of the fits is asked at all


class Value(NamedTuple):
    """A number with its interval; NaN or infinite ends: not known, or beyond the sizes."""

    value: float
    low: float
    high: float


class Row(NamedTuple):
    """At one size. gap: first's accuracy minus second's, in points. ratio: second's error over
    first's. multiplier: images second needs to reach first, over these; infinite: more than the
    largest size, 0: fewer than the smallest. most, least: what it is censored at."""

    images: float
    gap: Value
    ratio: Value
    multiplier: Value
    most: float
    least: float

    @property
    def sign(self) -> int:
        """1: first is ahead, -1: second is, 0: the interval of the ratio holds 1."""
        return int(self.ratio.low > 1) - int(self.ratio.high < 1)


class Verdict(NamedTuple):
    """What the sizes say of the lead; nothing here lies outside of them.

    kind: "crossing" (the lead changes once, at `at`), "several" (more than once), "lead" (one is
    ahead wherever they differ) or "undecided" (no size tells them apart). leader: of the largest
    size that tells them apart. trend: of log ratio per e-fold of data, above 0 where first gains.
    """

    kind: str
    leader: str = ""
    follower: str = ""
    at: Value | None = None
    trend: Value | None = None

    @property
    def approach(self) -> str:
        """Whether the one behind catches up, as ratios of errors have it: "closing", "widening" or
        "steady"."""
        if self.trend is None or not np.isfinite(self.trend.low):
            return "unknown"
        return "widening" if self.trend.low > 0 else "closing" if self.trend.high < 0 else "steady"


class Pair(NamedTuple):
    """share_beyond: of replicates of the fits, those that cross before BEYOND times the largest
    size; None where the fits are not to be trusted there."""

    first: str
    second: str
    rows: tuple[Row, ...]
    verdict: Verdict
    share_beyond: float | None = None


def compare(first: Series, second: Series, draws: np.ndarray) -> Pair:
    """draws: curves.seed_draws. Raises ValueError for series of other sizes."""
    if not np.array_equal(first.images, second.images):
        raise ValueError(f"{first.name} and {second.name} were run at different sizes")
    images = first.images
    both = np.isfinite(first.error) & np.isfinite(second.error)
    there = both.any(axis=1)
    images, draws = images[there], draws[:, there]
    a, b = (np.where(both, s.error, np.nan)[there] for s in (first, second))
    log_a, log_b = (np.where(both, s.log_error, np.nan)[there] for s in (first, second))
    gaps = _values(100 * (b - a))
    log_ratios = _values(log_b - log_a)
    drawn_a, drawn_b = (curves.resampled(log, draws, student=True) for log in (log_a, log_b))
    times = needed(images, curves.nanmean(log_b)[None], curves.nanmean(log_a)[None])[0]
    drawn = needed(images, drawn_b, drawn_a)
    repeated = both[there].sum(axis=1).min(initial=2) > 1
    rows = []
    for place, D in enumerate(images):
        ends = curves.quantiles(drawn[:, place]) if repeated else (np.nan, np.nan)
        rows.append(
            Row(
                float(D),
                gaps[place],
                Value(*(float(np.exp(each)) for each in log_ratios[place])),
                Value(float(times[place]), *ends),
                float(images[-1] / D),
                float(images[0] / D),
            )
        )
    drawn_g = drawn_a - drawn_b if repeated else None
    verdict = judge(first.name, second.name, rows, drawn_g)
    return Pair(first.name, second.name, tuple(rows), verdict)


def needed(images: np.ndarray, log_b: np.ndarray, log_a: np.ndarray) -> np.ndarray:
    """D_b(e_a(D)) / D [R, n]: linear between sizes in log D and log e, along the lowest error so
    far. Infinite where the largest size is not enough, 0 where the smallest is more than enough."""
    x = np.log(images)
    out = np.empty_like(log_a)
    for row, (mine, wanted) in enumerate(
        zip(np.minimum.accumulate(log_b, axis=1), log_a, strict=True)
    ):
        for place, target in enumerate(wanted):
            if target < mine[-1]:
                out[row, place] = np.inf
            elif target > mine[0]:
                out[row, place] = 0.0
            else:
                after = int(np.argmax(mine <= target))  # the first size that is as good
                if after == 0 or mine[after] == target:
                    at = x[after]
                else:
                    share = (mine[after - 1] - target) / (mine[after - 1] - mine[after])
                    at = x[after - 1] + share * (x[after] - x[after - 1])
                out[row, place] = np.exp(at - x[place])
    return out


def judge(first: str, second: str, rows, drawn_g: np.ndarray | None) -> Verdict:
    """The rule: a crossing is observed where the interval of the ratio lies on one side of 1 at one
    size and on the other side at a larger one; then it is where the mean log ratio changes sign
    between these two, and its interval that of the replicates. drawn_g: log e first - log e second
    of the replicates [R, n]; None where seeds are not repeated."""
    signs = [(place, row.sign) for place, row in enumerate(rows) if row.sign]
    if not signs:
        return Verdict("undecided")
    changes = [pair for pair in itertools.pairwise(signs) if pair[0][1] != pair[1][1]]
    last = signs[-1][1]
    leader, follower = (first, second) if last > 0 else (second, first)
    x = np.log([row.images for row in rows])
    g = -np.log([row.ratio.value for row in rows])
    if len(changes) > 1:
        return Verdict("several", leader, follower)
    if not changes:
        return Verdict("lead", leader, follower, trend=_trend(x, g, drawn_g, last))
    (start, _), (end, _) = changes[0]
    inside = slice(start, end + 1)
    at = sign_change(x[inside], last * g[inside][None])[0]
    drawn = sign_change(x[inside], last * drawn_g[:, inside])
    low, high = curves.quantiles(drawn)
    return Verdict(
        "crossing", leader, follower, Value(*(float(np.exp(v)) for v in (at, low, high)))
    )


def sign_change(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Where rows of g [R, m] fall from above 0 to below it, the last time; x[0] for a row that is
    below 0 throughout, x[-1] for one above: a crossing is never placed outside."""
    above = g > 0
    last = g.shape[1] - 1 - np.argmax(above[:, ::-1], axis=1)  # the last size above 0
    none = ~above.any(axis=1)
    last = np.minimum(last, g.shape[1] - 2)
    rows = np.arange(len(g))
    before, after = g[rows, last], g[rows, last + 1]
    share = np.clip(before / np.where(before == after, 1.0, before - after), 0, 1)
    at = x[last] + share * (x[last + 1] - x[last])
    at = np.where(after > 0, x[-1], at)
    return np.where(none, x[0], at)


def share_beyond(first: curves.Fitted, second: curves.Fitted, largest: float) -> float | None:
    """See Pair."""
    if not (first.trusted and second.trusted):
        return None
    ahead = np.geomspace(largest, BEYOND * largest, 20)
    g = np.log(first.draws.at(ahead)) - np.log(second.draws.at(ahead))
    return float(np.mean((np.sign(g) != np.sign(g[:, :1])).any(axis=1)))


def _values(paired: np.ndarray) -> list[Value]:
    mean, low, high = curves.mean_interval(paired)
    return [Value(*map(float, each)) for each in zip(mean, low, high, strict=True)]


def _trend(x, g, drawn_g, last) -> Value | None:
    """Slope of the leader's advantage in log ratio on log D."""
    if len(x) < 2:
        return None
    centred = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    value = float(-last * g @ centred)
    if drawn_g is None:
        return Value(value, np.nan, np.nan)
    return Value(value, *curves.quantiles(-last * drawn_g @ centred))
