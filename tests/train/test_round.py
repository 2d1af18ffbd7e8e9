"""A whole evaluation round: one pass over each split, the same numbers on every mesh."""

import jax
import numpy as np
import pytest

from vitjax.data import pipeline
from vitjax.evaluators import EVALUATORS
from vitjax.train import reopen

QUICK = {
    "knn": {"k": [5]},
    "linear": {"steps": 20, "batch_size": 16, "lrs": [0.01, 0.1]},
    "patch_knn": {"k": [1, 3]},
    "matching": {"pairs": 20},
    "foreground": {},
    "shift": {"draws": 2, "readout": "knn", "k": 5},
}
FEW = {"train_examples": 50, "sample_examples": 29}


@pytest.fixture
def shapes(settings):
    """47 validation images do not divide into batches of 16, nor a sample of about 29."""
    return settings | {
        "encoder": settings["encoder"] | {"variant": "Ti/4", "pool": "cls"},
        "data": {"name": "shapes", "size": 16, "examples": 157, "minival": 0.3, "test": None},
        "input": {"canvas": 16, "threads": 1},
        "views": {"size": 16},
        "evaluators": QUICK,
        "evaluate": FEW,
        "seed": 3,
    }


def numbers(settings):
    opened = reopen.open_run(settings)
    with jax.set_mesh(opened.mesh):
        results = opened.rounds.run(opened.state, "validation")
    assert {f"eval/validation/{name}/seconds" for name in settings["evaluators"]} <= set(results)
    return {n: v for n, v in results.items() if not n.endswith(("seconds", "protocol"))}


def test_one_device_and_eight_give_the_same_numbers(shapes, monkeypatch):
    many = numbers(shapes)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: one)
    assert numbers(shapes) == pytest.approx(many, abs=1e-5)
    assert {name.split("/")[2] for name in many} == set(QUICK)


def test_measures_of_bias_are_those_of_one_device(shapes, monkeypatch):
    """They differentiate, and look at attention, a few images at a time."""
    shapes["evaluators"] = {
        "bias_attention": {"each": "layer"},
        "bias_equivariance": {},
        "bias_field": {"images": 20, "draws": 1},
        "bias_spectrum": {"layers": True},
    }
    many = numbers(shapes)
    one = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *args: one)
    assert numbers(shapes) == pytest.approx(many, rel=1e-4, abs=1e-5, nan_ok=True)
    assert {name.split("/")[2] for name in many} == set(shapes["evaluators"])
    assert 0 < many["eval/validation/bias_attention/of_uniform_block_01"] < 1.3
    assert many["eval/validation/bias_equivariance/shift_error"] > 0


def test_a_split_is_read_once_and_its_sample_once_whatever_is_asked(shapes, monkeypatch):
    opened = reopen.open_run(shapes)
    passes = []
    read = pipeline.eval_batches

    def counted(split, **settings):
        passes.append((len(split), settings["annotated"]))
        return read(split, **settings)

    monkeypatch.setattr(pipeline, "eval_batches", counted)
    with jax.set_mesh(opened.mesh):
        opened.rounds.run(opened.state, "validation")
    train, validation = (len(opened.rounds.splits[s]) for s in ("train", "validation"))
    plain = [examples for examples, annotated in passes if not annotated]
    assert sorted(plain) == sorted([train, validation])
    assert len(passes) == 4 and train == 50


def test_augmented_images_of_the_train_split_come_as_asked(shapes):
    shapes["evaluators"] = {
        "linear": {"augment": True, "steps": 6, "batch_size": 8, "lrs": [0.01], "layers": [1]}
    }
    got = numbers(shapes)
    assert 0 <= got["eval/validation/linear/top1"] <= 1
    opened = reopen.open_run(shapes)
    with jax.set_mesh(opened.mesh):
        train = opened.rounds.features(opened.state, "train", ("patch_mean",))
        rows = np.array([3, 4, 7, 9, 11, 20])
        batches = list(train.stream(rows, steps=3, batch_size=8, seed=0))
        again = next(train.stream(rows, steps=1, batch_size=8, seed=0))
    labels = [int(label) for batch in batches for label in batch.label]
    assert len(labels) == 24
    for epoch in range(4):  # every example once in each epoch of six
        want = sorted(int(train.label[row]) for row in rows)
        assert sorted(labels[6 * epoch : 6 * epoch + 6]) == want
    assert batches[0].pooled.shape == batches[0].patch_mean.shape == (8, 16)
    assert (batches[0].pooled == again.pooled).all()


@pytest.mark.parametrize("name", [name for name, row in EVALUATORS.items() if row.needs])
def test_what_the_data_set_does_not_know_is_said_before_anything_runs(recipe, name):
    recipe["evaluators"] = {name: {}}
    with pytest.raises(ValueError, match=rf"^evaluators\.{name} needs a data set [^\n]*$"):
        reopen.open_run(recipe)
