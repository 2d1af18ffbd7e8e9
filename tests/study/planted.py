"""Studies whose truth is known: errors drawn around planted curves."""

import numpy as np

from vitjax.study.curves import Series

SIZES = np.array([20.0, 50, 100, 200, 400, 800, 1600])
MIDDLE = float(np.exp(np.log(SIZES).mean()))
TEST = 100_000  # test images: so many that the least error matters to none


def curve(a, b, floor=0.0, middle=MIDDLE):
    """images -> error, as fit.Curve has it."""
    return lambda images: floor + a * (np.asarray(images) / middle) ** -b


def series(name, true, noise=0.0, seeds=3, seed=0, shared=None, sizes=SIZES):
    """Noise of log e over seeds; shared [n, S]: what runs of one seed have in common."""
    rng = np.random.default_rng(seed)
    draw = noise * rng.standard_normal((len(sizes), seeds))
    if shared is not None:
        draw = draw + shared
    return Series(name, sizes, true(sizes)[:, None] * np.exp(draw), 0.5 / TEST)
