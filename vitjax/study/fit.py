"""Learning curves: the error on unseen images against the number of distinct training images D.

    e(D) = floor + a (D / D0)^-b,   D0 the geometric mean of the sizes      (arXiv:1712.00409)

"power" is the same without a floor. The summed Huber loss of log e over its deviation is minimised
from many starts: an averaged loss lets an optimiser stop early (arXiv:2404.10102). Fits of many
replicates at once are what the bootstrap needs; SciPy fits one at a time, and the tests compare.
n sizes, R replicates, K starts.
"""

from typing import NamedTuple

import numpy as np

FORMS = ("floor", "power")
NUMBERS = ("a", "b", "floor", "loss")  # fields of a Curve that are one per replicate
SLOPES = (0.02, 2.0)  # bounds of b
HUBER = 1.35  # in deviations: 95% efficient for normal noise
LEAST_DEVIATION = 0.02  # of log e over seeds; fewer seeds than ten tell no smaller one
STEPS = 300
CLOSE = 0.01  # optima within this share of the lowest loss are as good
FEWEST = 6  # sizes below which a floor cannot be told from a steeper slope
HELD_OUT_RMSE = 0.05  # of log e: beyond it, a form is not to be trusted outside its sizes


class Curve(NamedTuple):
    """Fitted curves, numbers or arrays [R]. loss: the summed Huber loss. rivals: other parameters
    (a, b, floor) that are as good within 1%."""

    form: str
    middle: float
    a: np.ndarray
    b: np.ndarray
    floor: np.ndarray
    loss: np.ndarray
    rivals: tuple[tuple[float, float, float], ...] = ()

    def at(self, images) -> np.ndarray:
        """The error at so many images [m]: [m], or [R, m]."""
        x = np.asarray(images, float) / self.middle
        a, b, floor = (np.asarray(each)[..., None] for each in (self.a, self.b, self.floor))
        return floor + a * x**-b


def fit(images, log_error, deviation, form: str = "floor") -> Curve:
    """The curve through log e [n] at images [n]. deviation: of log e over seeds, [n] or one."""
    images, log_error = np.asarray(images, float), np.asarray(log_error, float)
    found = _fit(images, log_error[None], deviation, form, _starts(27))
    losses = found.loss[0]
    best = int(np.argmin(losses))
    close = np.flatnonzero(losses <= losses[best] * (1 + CLOSE) + 1e-9)
    rivals = []
    for place in close[np.argsort(losses[close])]:
        each = tuple(float(part[0, place]) for part in (found.a, found.b, found.floor))
        if not any(np.allclose(each, other, rtol=0.02, atol=1e-4) for other in rivals):
            rivals.append(each)
    a, b, floor = rivals[0]
    return Curve(form, found.middle, a, b, floor, float(losses[best]), tuple(rivals[1:]))


def fit_many(images, log_error, deviation, form: str = "floor") -> Curve:
    """A curve through each row of log e [R, n], from 9 starts each."""
    found = _fit(
        np.asarray(images, float), np.asarray(log_error, float), deviation, form, _starts(9)
    )
    best = np.argmin(found.loss, axis=1)[:, None]

    def take(part):
        return np.take_along_axis(part, best, axis=1)[:, 0]

    return Curve(form, found.middle, *map(take, (found.a, found.b, found.floor, found.loss)))


def choose_form(images, log_error, deviation) -> tuple[str, dict[str, float]]:
    """(the form that predicts the largest sizes better, {form: rmse of log e there}).

    One size of fewer than seven is held out, else two. With fewer than FEWEST sizes a floor cannot
    be identified: "power", and {} where there are fewer than three.
    """
    order = np.argsort(images)
    images, log_error = np.asarray(images, float)[order], np.asarray(log_error, float)[order]
    deviation = np.broadcast_to(deviation, images.shape)[order]
    if len(images) < 3:
        return "power", {}
    held = 1 if len(images) < 7 else 2
    kept, out = slice(None, -held), slice(-held, None)
    rmse = {}
    for form in FORMS if len(images) >= FEWEST else ("power",):
        curve = fit(images[kept], log_error[kept], deviation[kept], form)
        miss = np.log(curve.at(images[out])) - log_error[out]
        rmse[form] = float(np.sqrt(np.mean(miss**2)))
    return min(rmse, key=rmse.get), rmse


def local_slopes(images, log_error) -> np.ndarray:
    """d log e / d log D between neighbouring sizes, [n - 1]: no line where they drift."""
    return np.diff(log_error) / np.diff(np.log(images))


def huber(residual: np.ndarray) -> np.ndarray:
    """r^2 / 2 up to HUBER, then linear."""
    size = np.abs(residual)
    return np.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))


def _starts(count: int) -> np.ndarray:
    """[K, 3]: the slope b, the floor's share of the lowest error, a shift of log a."""
    slopes, shares = (0.1, 0.4, 1.2), (0.02, 0.5, 0.9)
    shifts = (0.0, -0.5, 0.5) if count == 27 else (0.0,)
    return np.array([(b, share, shift) for b in slopes for share in shares for shift in shifts])


def _fit(images, log_error, deviation, form, starts) -> Curve:
    """Levenberg-Marquardt on reweighted squares, all replicates and starts at once: [R, K]."""
    if form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMS)}")
    middle = float(np.exp(np.mean(np.log(images))))
    x = np.log(images / middle)  # [n]
    scale = np.maximum(np.broadcast_to(deviation, images.shape), LEAST_DEVIATION)
    R, K = len(log_error), len(starts)
    y = np.repeat(log_error, K, axis=0)  # [R * K, n]
    # A floor lies below the lowest error.
    least = np.exp(y.min(axis=1)) if form == "floor" else np.zeros(R * K)
    theta = _begin(x, y, least, np.tile(starts, (R, 1)))

    def loss_of(theta, y, least):
        return huber((y - _model(theta, x, least)[0]) / scale).sum(axis=1)

    loss, damping = loss_of(theta, y, least), np.full(R * K, 1e-2)
    active = np.arange(R * K)
    for _ in range(STEPS):
        now, most = theta[active], least[active]
        move = _step(now, x, y[active], most, scale, damping[active])
        trial = now + np.clip(move, -2, 2)
        trial[:, 1:] = np.clip(trial[:, 1:], -12, 12)  # beyond, a sigmoid is at its bound
        new = loss_of(trial, y[active], most)
        better = new < loss[active]
        done = better & (loss[active] - new < 1e-10 * (1 + new))
        theta[active[better]], loss[active[better]] = trial[better], new[better]
        damping[active] *= np.where(better, 1 / 3, 4.0)
        active = active[~done & (damping[active] < 1e6)]
        if not len(active):
            break
    b, floor = _bounded(theta, least)
    return Curve(form, middle, *(p.reshape(R, K) for p in (np.exp(theta[:, 0]), b, floor, loss)))


def _begin(x, y, least, starts) -> np.ndarray:
    """theta [P, 3] = (log a, b and the floor before their sigmoids); log a as the others want it,
    shifted."""
    b, share, shift = starts.T
    rest = np.maximum(np.exp(y) - (least * share)[:, None], 1e-12)
    log_a = np.mean(np.log(rest) + b[:, None] * x, axis=1) + shift
    low, high = np.log(SLOPES)
    return np.stack([log_a, _logit((np.log(b) - low) / (high - low)), _logit(share)], axis=1)


def _bounded(theta, least):
    """(b, floor) of unbounded parameters."""
    low, high = np.log(SLOPES)
    return np.exp(low + (high - low) * _sigmoid(theta[:, 1])), least * _sigmoid(theta[:, 2])


def _model(theta, x, least):
    """(log e, what falls of e): [P, n] each."""
    b, floor = _bounded(theta, least)
    falling = np.exp(np.clip(theta[:, :1] - b[:, None] * x, -60, 60))
    return np.log(floor[:, None] + falling), falling


def _step(theta, x, y, least, scale, damping) -> np.ndarray:
    """The damped Gauss-Newton step of the Huber loss [P, 3]."""
    fitted, falling = _model(theta, x, least)
    r, e = (y - fitted) / scale, np.exp(fitted)
    weight = np.minimum(1.0, HUBER / np.maximum(np.abs(r), 1e-12))
    b, floor = _bounded(theta, least)
    inner, share = _sigmoid(theta[:, 1]), _sigmoid(theta[:, 2])
    steeper = b * np.log(SLOPES[1] / SLOPES[0]) * inner * (1 - inner)
    higher = floor * (1 - share)
    J = np.stack([falling, -falling * x * steeper[:, None], higher[:, None] + 0 * e], axis=2)
    J /= (e * scale)[:, :, None]  # [P, n, 3]
    weighted = J * weight[:, :, None]
    H = np.einsum("pni,pnj->pij", weighted, J)
    g = np.einsum("pni,pn->pi", weighted, r)
    diagonal = np.einsum("pii->pi", H) * damping[:, None] + 1e-10
    return np.linalg.solve(H + diagonal[:, :, None] * np.eye(3), g[:, :, None])[:, :, 0]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _logit(p):
    return np.log(p / (1 - p))
