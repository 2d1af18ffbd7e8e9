import itertools

import numpy as np
import pytest

from vitjax.data.subset import holdout, subset

N = 1203
KEYS = [f"train/{i}.jpg" for i in range(N)]
LABELS = np.random.RandomState(0).choice(4, N, p=[0.5, 0.3, 0.19, 0.01])
COUNTS = np.bincount(LABELS)


def test_subsets_nest():
    parts = [set(subset(KEYS, LABELS, f)) for f in (0.001, 0.01, 0.1, 0.5, 1.0)]
    for small, large in itertools.pairwise(parts):
        assert small < large
    assert len(parts[-1]) == N


def test_subsets_of_one_seed_nest_and_of_another_are_others():
    for seed in (1, 2):
        parts = [set(subset(KEYS, LABELS, f, seed)) for f in (0.01, 0.1, 0.5)]
        assert parts[0] < parts[1] < parts[2]
        for part, fraction in zip(parts, (0.01, 0.1, 0.5), strict=True):
            same = set(subset(KEYS, LABELS, fraction))
            assert len(part) == len(same)
            assert len(part & same) < (fraction + 0.15) * len(same)  # no more than chance has it
    with pytest.raises(ValueError, match=r"data\.subset_seed=-1"):
        subset(KEYS, LABELS, 0.1, -1)


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.77])
def test_every_class_gives_its_share_and_at_least_one(fraction):
    chosen = np.bincount(LABELS[subset(KEYS, LABELS, fraction)], minlength=4)
    assert np.all(chosen >= 1)
    assert np.all(np.abs(chosen - fraction * COUNTS) <= np.maximum(0.5, 1 - fraction * COUNTS))


def test_a_subset_depends_on_the_keys_not_on_their_order():
    turned = np.random.RandomState(1).permutation(N)
    chosen = {KEYS[i] for i in subset(KEYS, LABELS, 0.1)}
    again = subset([KEYS[i] for i in turned], LABELS[turned], 0.1)
    assert {KEYS[turned[i]] for i in again} == chosen
    assert np.all(np.diff(again) > 0)


def test_the_holdout_is_apart_balanced_and_unrelated_to_the_subset():
    left, out = holdout(KEYS, LABELS, 0.1)
    assert sorted([*left, *out]) == list(range(N))
    held = np.bincount(LABELS[out], minlength=4)
    assert np.all(np.abs(held - 0.1 * COUNTS) <= 0.5)
    # Drawn by the same hash, the 10% subset would be the holdout itself.
    assert len(set(out) & set(subset(KEYS, LABELS, 0.1))) < 0.3 * len(out)


def test_a_class_of_one_example_stays_in_training():
    left, out = holdout(["a", "b", "c"], [0, 1, 1], 0.9)
    assert 0 in left
    assert len(out) == 1


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_fractions_outside_the_unit_interval_name_their_key(fraction):
    with pytest.raises(ValueError, match=r"data\.fraction"):
        subset(KEYS, LABELS, fraction)


def test_a_holdout_of_everything_names_its_key():
    with pytest.raises(ValueError, match=r"data\.minival"):
        holdout(KEYS, LABELS, 1.0)
