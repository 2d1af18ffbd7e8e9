"""Intervals: of seeds, and of fitted curves; they hold the truth about as often as they say."""

import numpy as np
import pytest
from scipy import stats

from tests.study.planted import SIZES, curve, series
from vitjax.study import curves


def test_a_mean_has_students_interval():
    values = np.random.default_rng(0).standard_normal((4, 5))
    mean, low, high = curves.mean_interval(values)
    wanted = stats.t.interval(curves.LEVEL, 4, values.mean(1), stats.sem(values, axis=1))
    np.testing.assert_allclose(mean, values.mean(1))
    np.testing.assert_allclose([low, high], wanted)


def test_one_seed_has_no_interval_and_a_missing_one_does_not_count():
    mean, low, high = curves.mean_interval([[0.2, np.nan, np.nan], [0.2, 0.4, np.nan]])
    np.testing.assert_allclose(mean, [0.2, 0.3])
    assert np.isnan([low[0], high[0]]).all() and low[1] < 0.3 < high[1]


def test_a_resample_varies_as_a_mean_does():
    """Of three seeds too: their resample alone has two thirds of the variance."""
    rng = np.random.default_rng(0)
    draws = curves.seed_draws(1, 3, replicates=2000)
    found = [curves.resampled(rng.standard_normal((1, 3)), draws).var() for _ in range(200)]
    assert np.mean(found) == pytest.approx(1 / 3, rel=0.15)


def test_replicates_use_the_same_seeds_for_every_encoder():
    """What runs of one seed share cancels in a difference, replicate by replicate."""
    shared = np.random.default_rng(1).standard_normal((7, 4))
    draws = curves.seed_draws(7, 4, replicates=50)
    first = curves.resampled(shared, draws)
    second = curves.resampled(shared + 0.25, draws)
    np.testing.assert_allclose(second - first, 0.25)
    assert first.std(axis=0).min() > 0.05


@pytest.mark.slow
def test_intervals_of_a_fit_cover_the_truth():
    """40 planted studies, 90% intervals; wide rather than narrow, since noise between seeds counts
    at both levels, and so does not knowing the form."""
    true, hits = curve(0.2, 0.6, 0.03), []
    for seed in range(40):
        planted = series("cnn", true, noise=0.08, seeds=3, seed=seed)
        draws = curves.seed_draws(len(SIZES), 3, seed, replicates=100)
        found = curves.fit_series(planted, draws, seed)
        inside = [curves.quantiles(found.draws.at([D])[:, 0]) for D in (50.0, 200.0, 1600.0)]
        hits.append(
            [low <= true(D) <= high for (low, high), D in zip(inside, (50, 200, 1600), strict=True)]
        )
    share = np.mean(hits, axis=0)
    assert (share >= 0.85).all(), share
    assert share.mean() <= 0.995  # an interval that holds everything says nothing


def test_a_study_of_two_sizes_has_no_curve():
    planted = series("cnn", curve(0.2, 0.6), sizes=SIZES[:2])
    assert curves.fit_series(planted, curves.seed_draws(2, 3, replicates=10)) is None


def test_an_error_of_nothing_counts_as_half_a_test_image():
    planted = curves.Series("cnn", SIZES[:1], np.zeros((1, 2)), least=0.5 / 359)
    np.testing.assert_allclose(np.exp(planted.log_error), 0.5 / 359)
