"""Gap, ratio, multiplier and crossing of planted pairs; nothing is placed outside the sizes."""

import numpy as np
import pytest

from tests.study.planted import SIZES, curve, series
from vitjax.study import curves, pairs

DRAWS = curves.seed_draws(len(SIZES), 5, replicates=400)


def planted(first, second, noise=0.03, seed=0, seeds=5):
    """A pair of encoders around two true curves, with what their seeds share."""
    shared = 0.1 * np.random.default_rng(seed + 100).standard_normal((len(SIZES), seeds))
    a = series("cnn", first, noise, seeds, 2 * seed, shared)
    b = series("vit", second, noise, seeds, 2 * seed + 1, shared)
    return pairs.compare(a, b, DRAWS)


def crossing_curves(at, slope=0.4):
    """Two power laws that meet at so many images."""
    return curve(0.2, 0.3, middle=at), curve(0.2, 0.3 + slope, middle=at)


@pytest.mark.parametrize("at", [60.0, 250.0, 700.0])
def test_a_planted_crossing_lies_in_its_interval(at):
    hits = []
    for seed in range(20):
        verdict = planted(*crossing_curves(at), seed=seed).verdict
        assert verdict.kind == "crossing"
        assert (verdict.leader, verdict.follower) == ("vit", "cnn")
        hits.append(verdict.at.low <= at <= verdict.at.high)
        assert verdict.at.low <= verdict.at.value <= verdict.at.high
        assert SIZES[0] <= verdict.at.low and verdict.at.high <= SIZES[-1]
    assert np.mean(hits) >= 0.8


def test_the_order_of_a_pair_does_not_matter():
    a, b = crossing_curves(250.0)
    one = pairs.compare(series("a", a, 0.02, 5, 1), series("b", b, 0.02, 5, 2), DRAWS).verdict
    two = pairs.compare(series("b", b, 0.02, 5, 2), series("a", a, 0.02, 5, 1), DRAWS).verdict
    assert one.kind == two.kind == "crossing" and one.leader == two.leader == "b"
    np.testing.assert_allclose(one.at, two.at, rtol=1e-9)


@pytest.mark.parametrize("at", [4_000.0, 1e6])
def test_curves_that_meet_beyond_the_sizes_have_no_crossing(at):
    for seed in range(10):
        verdict = planted(*crossing_curves(at, slope=0.15), seed=seed).verdict
        assert verdict.kind == "lead" and verdict.leader == "cnn" and verdict.at is None
        assert verdict.approach == "closing"


def test_parallel_curves_stay_apart():
    verdict = planted(curve(0.1, 0.5), curve(0.2, 0.5), noise=0.01).verdict
    assert verdict.kind == "lead" and verdict.approach == "steady"
    assert verdict.trend.value == pytest.approx(0, abs=0.02)
    assert planted(curve(0.1, 0.7), curve(0.2, 0.5), noise=0.01).verdict.approach == "widening"


def test_equal_curves_are_undecided_or_nearly():
    """With 90% intervals one size in ten tells equals apart by chance; two sizes on two sides
    hardly ever do."""
    kinds = [
        planted(curve(0.2, 0.5), curve(0.2, 0.5), seed=seed).verdict.kind for seed in range(40)
    ]
    assert kinds.count("undecided") >= 12
    assert kinds.count("crossing") + kinds.count("several") <= 8


def test_two_changes_of_the_lead_are_no_crossing():
    wave = np.array([1, 1, -1, -1, 1, 1, 1]) * 0.3
    b = series("vit", lambda D: curve(0.2, 0.5)(D) * np.exp(wave), 0.01, 5, 3)
    verdict = pairs.compare(series("cnn", curve(0.2, 0.5), 0.01, 5, 4), b, DRAWS).verdict
    assert verdict.kind == "several" and verdict.at is None and verdict.leader == "cnn"


def test_gap_and_ratio_are_what_they_say():
    rows = planted(curve(0.1, 0.5), curve(0.2, 0.5), noise=0.0).rows
    for row in rows:
        assert row.ratio.value == pytest.approx(2.0)
        assert row.sign == 1
    no_noise = series("cnn", curve(0.1, 0.5)), series("vit", curve(0.2, 0.5))
    rows = pairs.compare(*no_noise, curves.seed_draws(7, 3, replicates=20)).rows
    wanted = 100 * (curve(0.2, 0.5)(SIZES) - curve(0.1, 0.5)(SIZES))
    np.testing.assert_allclose([row.gap.value for row in rows], wanted)


def test_the_multiplier_of_power_laws_is_known():
    """e_b(m D) = e_a(D) for laws of one exponent: m = (a_b / a_a)^(1 / b), where it can be seen."""
    no_noise = series("cnn", curve(0.1, 0.5)), series("vit", curve(0.2, 0.5))
    draws = curves.seed_draws(7, 3, replicates=20)
    there = pairs.compare(*no_noise, draws).rows
    back = pairs.compare(*no_noise[::-1], draws).rows
    for row in there[:5]:
        assert row.multiplier.value == pytest.approx(4.0)
    for row in there[5:]:  # 4 x 800 images were never run
        assert row.multiplier.value == np.inf and row.most == 1600 / row.images
    for row in back[2:]:
        assert row.multiplier.value == pytest.approx(0.25)
    assert back[0].multiplier.value == 0.0 and back[0].least == 1.0


def test_a_curve_that_bends_up_counts_its_best_so_far():
    bent = np.array([[0.5, 0.3, 0.35, 0.2]])
    got = pairs.needed(np.array([1.0, 2, 4, 8]), np.log(bent), np.log(np.full((1, 4), 0.3)))
    np.testing.assert_allclose(got[0], 2.0 / np.array([1.0, 2, 4, 8]))


def test_a_missing_seed_is_left_out_of_both():
    a, b = series("cnn", curve(0.1, 0.5), 0.1, 5), series("vit", curve(0.2, 0.5), 0.1, 5, 1)
    a.error[2, 3] = np.nan
    whole = pairs.compare(a, b, DRAWS).rows[2].gap.value
    kept = [0, 1, 2, 4]
    assert whole == pytest.approx(100 * np.mean(b.error[2, kept] - a.error[2, kept]))


def test_one_seed_decides_nothing():
    one = series("cnn", curve(0.1, 0.5), seeds=1), series("vit", curve(0.3, 0.5), seeds=1)
    pair = pairs.compare(*one, curves.seed_draws(7, 1, replicates=20))
    assert pair.verdict.kind == "undecided"
    assert np.isnan(pair.rows[0].gap.low) and np.isnan(pair.rows[0].multiplier.low)


def test_replicates_beyond_are_asked_of_trusted_fits_only():
    a, b = crossing_curves(2400.0, slope=0.3)
    draws = curves.seed_draws(7, 5, replicates=100)
    fits = [
        curves.fit_series(series(n, c, 0.005, 5, i), draws)
        for i, (n, c) in enumerate((("cnn", a), ("vit", b)))
    ]
    assert pairs.share_beyond(*fits, 1600.0) > 0.8
    few = curves.fit_series(series("vit", b, seeds=5, sizes=SIZES[:5]), draws[:, :5])
    assert pairs.share_beyond(fits[0], few, 400.0) is None
