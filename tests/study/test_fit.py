"""Fits recover what was planted, and agree with SciPy's, which go one at a time."""

import numpy as np
import pytest
from scipy.optimize import least_squares

from tests.study.planted import SIZES, curve
from vitjax.study import fit


@pytest.mark.parametrize(("a", "b", "floor"), [(0.2, 0.7, 0.03), (0.1, 0.4, 0.0), (0.3, 1.3, 0.05)])
def test_a_curve_without_noise_is_found_again(a, b, floor):
    found = fit.fit(SIZES, np.log(curve(a, b, floor)(SIZES)), 0.05)
    np.testing.assert_allclose([found.a, found.b], [a, b], rtol=0.01)
    assert found.floor == pytest.approx(floor, abs=5e-4)
    np.testing.assert_allclose(found.at(SIZES), curve(a, b, floor)(SIZES), rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", fit.FORMS)
def test_the_minimum_is_scipys(form, seed):
    rng = np.random.default_rng(seed)
    deviation = rng.uniform(0.02, 0.1, len(SIZES))
    y = np.log(curve(0.2, 0.6, 0.02)(SIZES)) + 2 * deviation * rng.standard_normal(len(SIZES))
    least = np.exp(y.min()) if form == "floor" else 0.0
    x = SIZES / np.exp(np.log(SIZES).mean())

    def residual(p):  # log a, b, the floor as a share of the lowest error
        return (y - np.log(least * p[2] + np.exp(p[0]) * x ** -p[1])) / deviation

    bounds = [-10, fit.SLOPES[0], 0], [5, fit.SLOPES[1], 1]
    starts = [(-1.5, b, share) for b in (0.1, 0.5, 1.5) for share in (0.05, 0.5, 0.95)]
    theirs = min(
        least_squares(
            *(residual, start, "3-point", bounds),
            **dict(loss="huber", f_scale=fit.HUBER, xtol=1e-14, ftol=1e-14, gtol=1e-12),
        ).cost
        for start in starts
    )
    ours = fit.fit(SIZES, y, deviation, form)
    assert ours.loss == pytest.approx(theirs, abs=2e-4)
    many = fit.fit_many(SIZES, np.stack([y, y[::-1]]), deviation, form)
    assert many.loss[0] == pytest.approx(theirs, abs=2e-4)


def test_the_loss_is_summed():
    """An averaged one would be a seventh of it (arXiv:2404.10102)."""
    y = np.log(curve(0.2, 0.5)(SIZES)) + np.array([0, 0, 0.3, 0, 0, 0, 0])
    found = fit.fit(SIZES, y, 0.1, "power")
    residual = (y - np.log(found.at(SIZES))) / 0.1
    assert found.loss == pytest.approx(fit.huber(residual).sum())


def test_the_form_follows_what_the_largest_sizes_say():
    deviation = np.full(len(SIZES), 0.02)
    with_floor, rmse = fit.choose_form(SIZES, np.log(curve(0.1, 1.0, 0.05)(SIZES)), deviation)
    assert with_floor == "floor" and rmse["floor"] < 0.01 < rmse["power"]
    rng = np.random.default_rng(0)
    noisy = np.log(curve(0.1, 0.4)(SIZES)) + 0.05 * rng.standard_normal(len(SIZES))
    assert set(fit.choose_form(SIZES, noisy, deviation)[1]) == set(fit.FORMS)


def test_five_sizes_do_not_identify_a_floor():
    five = SIZES[:5]
    form, rmse = fit.choose_form(five, np.log(curve(0.1, 1.0, 0.05)(five)), 0.02)
    assert form == "power" and set(rmse) == {"power"}


def test_rivals_are_curves_as_good_as_the_best():
    y = np.log(curve(0.2, 0.5)(SIZES[:3]))
    found = fit.fit(SIZES[:3], y, 0.05, "floor")
    for a, b, floor in found.rivals:
        other = fit.Curve("floor", found.middle, a, b, floor, 0.0)
        loss = fit.huber((y - np.log(other.at(SIZES[:3]))) / 0.05).sum()
        assert loss <= found.loss * 1.01 + 1e-8


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form='cubic': expected one of floor, power"):
        fit.fit(SIZES, np.zeros(7), 0.1, "cubic")
