"""Mixtures and balanced classes: shares, epochs, and that they are functions of the position."""

import numpy as np
import pytest
from synthetic import Arrays

from vitjax.data import sampling, sources
from vitjax.data.mixture import Mixture
from vitjax.data.pipeline import train_batches
from vitjax.data.splits import Split, open_splits


def stream(groups, count, start=0, seed=3):
    return [groups.example_at(start + i, seed=seed, shuffle=True) for i in range(count)]


def test_weights_hold_in_every_stretch_and_groups_have_epochs_of_their_own():
    groups = sampling.mixed((3.0, 1.0), [range(5), range(5, 12)])
    drawn = np.array(stream(groups, 4000))
    first = drawn[:, 1] < 5
    for stretch in np.split(first, 10):
        assert abs(stretch.mean() - 0.75) < 0.01
    for members, mine in ((range(5), first), (range(5, 12), ~first)):
        seen = drawn[mine]
        size = len(members)
        for epoch in range(3):  # each example once an epoch, in another order
            part = seen[epoch * size : (epoch + 1) * size]
            assert set(part[:, 0]) == {epoch} and set(part[:, 1]) == set(members)
    assert len({tuple(np.flatnonzero(first[i : i + 4])) for i in range(0, 400, 4)}) > 1


def test_the_stream_goes_on_across_blocks():
    groups = sampling.mixed((1.0, 2.0), [range(7), range(7, 20)])
    end = sampling.BLOCK
    across = stream(groups, 40, start=end - 20)
    seen = [(epoch, index) for epoch, index in across if index < 7]
    assert len(set(seen)) == len(seen)  # no example twice in one epoch
    first = np.array([index for _, index in stream(groups, 300)])
    other = np.array([index for _, index in stream(groups, 300, seed=4)])
    assert (first != other).any()


@pytest.mark.parametrize(("balance", "share"), [(1.0, 0.5), (0.5, 3 / 4), (1e-9, 0.9)])
def test_balance_shows_rare_classes_more_often(balance, share):
    labels = np.array([0] * 90 + [1] * 10)
    groups = sampling.balanced(labels, balance)
    drawn = np.array([index for _, index in stream(groups, 5000)])
    assert abs((labels[drawn] == 0).mean() - share) < 0.01


def mixture():
    return Mixture(("a", "b"), (Arrays(9), Arrays(4, classes=4)), (1, 3))


def test_a_mixture_joins_classes_by_name():
    source = mixture()
    assert len(source) == 13 and source.info.names == ("class0", "class1", "class2", "class3")
    np.testing.assert_array_equal(source.labels, [*(np.arange(9) % 3), 0, 1, 2, 3])
    assert [source[i]["label"] for i in (8, 9, 12)] == [2, 0, 3]
    assert [source.key(i) for i in (8, 9)] == ["a/arrays/8", "b/arrays/0"]


def batches(start, process_index, process_count, steps=6):
    source = mixture()
    split = Split(source, None, sampling.mixed(source.weights, source.members()))
    settings = {"batch_size": 8, "canvas": 5, "seed": 1, "threads": 1, "start": start}
    place = {"process_index": process_index, "process_count": process_count}
    with train_batches(split, **settings, **place) as stream:
        return [next(stream) for _ in range(steps)]


def test_hosts_and_resuming_change_nothing():
    whole = batches(0, 0, 1)
    halves = [batches(0, process, 2) for process in (0, 1)]
    later = batches(24, 0, 1, steps=3)
    for name in ("index", "epoch", "image"):
        for step, batch in enumerate(whole):
            joined = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(joined, batch[name])
        for step, batch in enumerate(later):
            np.testing.assert_array_equal(batch[name], whole[3 + step][name])
    index = np.concatenate([batch["index"] for batch in whole])
    assert abs((index >= 9).mean() - 0.75) < 0.05


def test_splits_of_a_mixture_are_opened_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "arrays", lambda split, count: Arrays(count))
    sets = {"a": {"name": "arrays", "count": 60, "weight": 1}}
    sets["b"] = {"name": "arrays", "count": 30, "weight": 0.25}
    splits = open_splits("mixture", sets=sets, test=None)
    assert len(splits["train"]) + len(splits["validation"]) == 90
    assert splits["train"].groups.weights == (1.0, 0.25)
    for wrong, message in (
        ({"a": {"name": "arrays", "count": 9}}, r"data\.sets\.a has no weight"),
        ({"a": {"name": "arrays", "count": 9, "weight": 0}}, r"data\.sets\.a\.weight=0: expected"),
        ({}, r"data\.sets=\{\}: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            open_splits("mixture", sets=wrong)
