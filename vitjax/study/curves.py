"""What the seeds of one encoder say at each size: means, intervals, and the two-level bootstrap.

n sizes, S seeds, R replicates. A missing run is NaN.
"""

import warnings
from typing import NamedTuple

import numpy as np
from scipy import stats

from vitjax.study import fit

LEVEL = 0.90  # of every interval: from the 5th to the 95th percentile
REPLICATES = 2000


class Series(NamedTuple):
    """One encoder. images [n], rising; error [n, S], shares of the test images; least: an error
    below which a test set of this size tells nothing, half an image."""

    name: str
    images: np.ndarray
    error: np.ndarray
    least: float

    @property
    def log_error(self) -> np.ndarray:
        """[n, S]."""
        return np.log(np.maximum(self.error, self.least))


class Fitted(NamedTuple):
    """The curve of one encoder. draws: of the replicates. slopes: local ones, [n - 1]. rms: of the
    power law's residuals of log e. held_out: {form: rmse at the largest sizes}."""

    form: str
    curve: fit.Curve
    draws: fit.Curve
    held_out: dict[str, float]
    slopes: np.ndarray
    power: fit.Curve
    rms: float

    @property
    def trusted(self) -> bool:
        """Whether the curve may say anything of sizes a little above the largest one: enough sizes,
        held-out ones predicted, and a floor form or local slopes that do not drift."""
        enough = len(self.slopes) + 1 >= fit.FEWEST
        predicted = self.held_out and self.held_out[self.form] <= fit.HELD_OUT_RMSE
        halves = np.array_split(self.slopes, 2)
        steady = self.form == "floor" or abs(halves[0].mean() - halves[1].mean()) <= 0.2
        return bool(enough and predicted and steady)


def mean_interval(values) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the last axis, and Student's t-interval of it; NaN where fewer than two are."""
    values = np.asarray(values, float)
    count = np.isfinite(values).sum(axis=-1)
    mean = nanmean(values)
    spread = np.sqrt(nanmean((values - mean[..., None]) ** 2) * count / np.maximum(count - 1, 1))
    few = count < 2
    t = stats.t.ppf(0.5 + LEVEL / 2, np.where(few, 1, count - 1))
    half = np.where(few, np.nan, t * spread / np.sqrt(np.maximum(count, 1)))
    return mean, mean - half, mean + half


def nanmean(values) -> np.ndarray:
    """Mean over the last axis of what is there; NaN where nothing is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(values, axis=-1)


def quantiles(draws) -> tuple[float, float]:
    """The 5th and 95th percentile; infinities count as what they are."""
    return tuple(
        float(each)
        for each in np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="nearest")
    )


def seed_draws(sizes: int, seeds: int, seed: int = 0, replicates: int = REPLICATES) -> np.ndarray:
    """Which seeds each replicate sees at each size, int [R, n, S]: the same for every encoder, so
    that what their runs share (subset, order, views) cancels in their differences."""
    return np.random.default_rng(seed).integers(0, seeds, (replicates, sizes, seeds))


def resampled(values: np.ndarray, draws: np.ndarray, student: bool = False) -> np.ndarray:
    """Means over resampled seeds [R, n] of values [n, S].

    Their deviation from the mean is widened by sqrt(k / (k - 1)), k seeds: a resample of k values
    varies by that much too little. student: and by Student's quantile over the normal one, so that
    percentiles of few seeds are those of a t-interval.
    """
    mean = nanmean(values)
    drawn = nanmean(np.take_along_axis(values[None], draws, axis=2))
    drawn = np.where(np.isfinite(drawn), drawn, mean[None])
    k = np.isfinite(values).sum(axis=1)
    wider = np.sqrt(k / np.maximum(k - 1, 1))
    if student:
        tail = 0.5 + LEVEL / 2
        wider = wider * stats.t.ppf(tail, np.maximum(k - 1, 1)) / stats.norm.ppf(tail)
    return mean + wider * (drawn - mean)


def fit_series(series: Series, draws: np.ndarray, seed: int = 0) -> Fitted | None:
    """The curve of a series, and of its replicates; None where there are fewer than three sizes.

    A replicate resamples seeds, then the residuals of the curve: noise between seeds counts at both
    levels, so intervals err on the wide side. Where both forms were in question there are
    replicates of each: which form is right is a part of what is not known.
    """
    there = np.isfinite(series.error).any(axis=1)
    images, values, draws = series.images[there], series.log_error[there], draws[:, there]
    if len(images) < 3:
        return None
    log_error = nanmean(values)
    deviation = deviations(values)
    form, held_out = fit.choose_form(images, log_error, deviation)
    fitted = {each: fit.fit(images, log_error, deviation, each) for each in {*held_out, form}}
    noise = resampled(values, draws) - log_error
    parts = []
    for each in sorted(fitted):
        expected = np.log(fitted[each].at(images))
        shuffled = _residuals(log_error - expected, 3 if each == "floor" else 2, len(draws), seed)
        parts.append(fit.fit_many(images, expected + noise + shuffled, deviation, each))
    pooled = [np.concatenate([getattr(part, key) for part in parts]) for key in fit.NUMBERS]
    replicates = fit.Curve(form, fitted[form].middle, *pooled)
    rms = float(np.sqrt(np.mean((log_error - np.log(fitted["power"].at(images))) ** 2)))
    slopes = fit.local_slopes(images, log_error)
    return Fitted(form, fitted[form], replicates, held_out, slopes, fitted["power"], rms)


def _residuals(residual: np.ndarray, parameters: int, replicates: int, seed: int) -> np.ndarray:
    """Resampled residuals [R, n], as large as they would be without the freedom that a fit took."""
    n = len(residual)
    residual = (residual - residual.mean()) * np.sqrt(n / max(n - parameters, 1))
    return residual[np.random.default_rng((seed, 1)).integers(0, n, (replicates, n))]


def deviations(values: np.ndarray) -> np.ndarray:
    """The deviation of log e over seeds at each size [n]; where it is one seed, that of the others,
    or 0.1."""
    count = np.isfinite(values).sum(axis=1)
    mean = nanmean(values)
    square = nanmean((values - mean[:, None]) ** 2) * count / np.maximum(count - 1, 1)
    pooled = float(np.sqrt(square[count > 1].mean())) if (count > 1).any() else 0.1
    # Of two or three seeds a deviation is mostly chance: half of it is what all sizes share.
    own = np.sqrt(np.where(count > 1, square, pooled**2))
    return np.maximum(0.5 * own + 0.5 * pooled, fit.LEAST_DEVIATION)
