"""Evaluation rounds keep to their share of the time, and their numbers say what they depend on."""

import pytest

from vitjax.train import evaluate, start
from vitjax.train import recipe as recipe_lib


@pytest.fixture
def rounds(recipe):
    """Rounds of a recipe, without a network: nothing here encodes."""
    recipe = recipe_lib.read(recipe)
    return evaluate.Rounds(recipe, None, start.open_splits(recipe), time_fraction=0.2)


def test_a_round_beyond_its_share_of_the_time_is_left_out(rounds, monkeypatch):
    monkeypatch.setattr(evaluate.time, "perf_counter", lambda: rounds.started + 100.0)
    rounds.seconds = 19.0
    assert rounds.affordable(last=False)
    rounds.seconds = 21.0
    assert not rounds.affordable(last=False)
    assert rounds.affordable(last=True)


def test_the_protocol_changes_with_what_a_number_depends_on(rounds, recipe):
    def protocol(**change):
        changed = recipe_lib.read(recipe | change)
        return evaluate.Rounds(changed, None, rounds.splits).protocol("knn", "validation")

    same = rounds.protocol("knn", "validation")
    assert same == protocol() == protocol(optimizer={"name": "lion", "lr": 1.0}, seed=7)
    assert same == protocol(data=recipe["data"] | {"data_dir": "elsewhere", "test": "test"})
    assert same != rounds.protocol("knn", "test")
    assert same != protocol(eval_views={"crop": 0.875})
    assert same == protocol(eval_views=recipe["eval_views"] | {"method": "cubic"})  # the default
    assert same != protocol(evaluators={"knn": {"k": [6]}})


def test_the_size_of_the_sample_is_of_the_protocol_of_those_who_look_at_it(rounds, recipe):
    both = recipe_lib.read(recipe | {"evaluators": {"knn": {}, "shift": {}}})

    def protocol(name, sample):
        return evaluate.Rounds(both, None, rounds.splits, sample_examples=sample).protocol(
            name, "validation"
        )

    assert protocol("knn", 10) == protocol("knn", 20)
    assert protocol("shift", 10) != protocol("shift", 20)


def test_evaluators_without_a_validation_split_are_refused(rounds):
    with pytest.raises(ValueError, match=r"set data\.minival or data\.validation"):
        evaluate.Rounds(rounds.recipe, None, {"train": rounds.splits["train"]})
