"""Linear segmentation: learns what is planted, chooses honestly, and says what it scored."""

import jax
import numpy as np
import pytest
from planted import eight_devices, looked_at
from scipy.special import log_softmax

from vitjax.evaluators import segmentation
from vitjax.evaluators.dense_head import Head, Scale
from vitjax.evaluators.linear import split
from vitjax.evaluators.maps import upsampling

H, W, SIZE, WIDTH = 3, 2, 12, 7
QUICK = {"steps": 60, "batch_size": 4, "lrs": (1e-4, 1e-2), "weight_decays": (1e-3,)}


def draw(seed, count, spread=0.3, classes=3):
    """Patches that name their class; the mask is where the upsampled classes are largest."""
    rng = np.random.default_rng(seed)
    clear = np.eye(WIDTH)[rng.integers(0, classes, (count, H, W))]
    down, across = upsampling(SIZE, H), upsampling(SIZE, W)
    mask = np.einsum("yh,nhwc,xw->nyxc", down, clear, across)[..., :classes].argmax(-1)
    return looked_at(5 * clear + spread * rng.normal(size=clear.shape), mask=mask)


def test_planted_classes_are_found_to_the_pixel_almost():
    got = segmentation.run(draw(0, 40), draw(1, 9), **QUICK | {"lrs": (1e-2,), "steps": 200})
    assert got["miou"] > 0.85 and got["pixel_accuracy"] > 0.92
    assert (got["lr"], got["weight_decay"]) == (1e-2, 1e-3)


def test_unknown_pixels_teach_nothing_and_count_nothing():
    train, validation = draw(0, 21), draw(1, 9)
    hidden = np.random.default_rng(2).random(train.sample.mask.shape) < 0.3
    # What stands under the unknown pixels differs; that they are unknown does not.
    got = []
    for wrong in (0, 2):
        mask = np.where(hidden, wrong, train.sample.mask)
        assert (mask != train.sample.mask).any()
        got.append(
            segmentation.run(
                looked_at(train.sample.patches, mask=np.where(hidden, 255, mask)),
                validation,
                **QUICK,
            )
        )
    assert got[0] == got[1] and got[0]["miou"] > 0.5
    mask = np.where(np.random.default_rng(3).random(validation.sample.mask.shape) < 0.5, 255, 1)
    part = segmentation.run(train, looked_at(validation.sample.patches, mask=mask), **QUICK)
    whole = segmentation.run(
        train, looked_at(validation.sample.patches, mask=mask * 0 + 1), **QUICK
    )
    assert part["pixel_accuracy"] == pytest.approx(whole["pixel_accuracy"], abs=0.05)


def test_the_loss_is_the_mean_cross_entropy_of_the_known_pixels():
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(WIDTH, 4)).astype(np.float32), np.arange(4, dtype=np.float32))
    patches = rng.normal(size=(2, H, W, WIDTH)).astype(np.float32)
    mask = rng.choice([0, 1, 3, 255], (2, SIZE, SIZE)).astype(np.uint8)
    shared = {
        "patches": patches,
        "mask": mask,
        "scale": Scale(np.full(WIDTH, 2.0, np.float32), np.full(WIDTH, 3.0, np.float32)),
        "down": upsampling(SIZE, H),
        "across": upsampling(SIZE, W),
    }
    got = jax.jit(segmentation.cross_entropy)(shared, head, np.array([1, 0]))
    maps = (patches.astype(float) - 2) / 3 @ head.kernel + head.bias
    large = jax.image.resize(maps.astype(np.float32), (2, SIZE, SIZE, 4), "linear")
    log_p = log_softmax(np.asarray(large, float), axis=-1)
    known = mask != 255
    assert got == pytest.approx(-log_p[known, mask[known]].mean(), rel=1e-5)


def test_the_head_that_is_best_on_the_held_out_images_is_chosen():
    train = draw(0, 31)
    held, rest = split(31, 0.3, seed=0)
    # The rest is labelled wrongly: whoever learns it fails on the held-out images.
    mask = train.sample.mask.copy()
    mask[rest] = (mask[rest] + 1) % 3
    settings = QUICK | {"lrs": (1e-9, 1e-2), "holdout": 0.3}
    assert segmentation.run(looked_at(train.sample.patches, mask=mask), draw(1, 9), **settings)[
        "lr"
    ] == pytest.approx(1e-9)
    assert segmentation.run(train, draw(1, 9), **settings)["lr"] == 1e-2
    assert len(held) == 9


def test_validation_has_no_say_in_the_choice_and_may_hold_a_class_that_train_lacks():
    train, validation = draw(0, 21), draw(1, 9)
    got = segmentation.run(train, validation, **QUICK)
    other = looked_at(validation.sample.patches, mask=np.full_like(validation.sample.mask, 6))
    missed = segmentation.run(train, other, **QUICK)
    assert missed == {**got, "miou": 0.0, "pixel_accuracy": 0.0}


def test_eight_devices_give_the_numbers_of_one():
    train, validation = draw(0, 21, spread=4.0), draw(1, 9, spread=4.0)
    mesh = eight_devices()
    alone = segmentation.run(train, validation, **QUICK)
    with jax.set_mesh(mesh):
        assert segmentation.run(train, validation, **QUICK) == pytest.approx(alone, abs=2e-3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lrs", ()),
        ("lrs", (0.1, 0.0)),
        ("weight_decays", (-0.1,)),
        ("weight_decays", ()),
        ("steps", 0),
        ("batch_size", 0),
        ("holdout", 0.0),
        ("seed", -1),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    line = rf"^evaluators\.segmentation\.{key}=[^\n]*expected[^\n]*$"
    with pytest.raises(ValueError, match=line):
        segmentation.run(draw(0, 3), draw(1, 2), **{key: value})


def test_what_cannot_be_measured_is_one_line():
    train, validation = draw(0, 3), draw(1, 2)
    blind = train._replace(sample=train.sample._replace(mask=None))
    with pytest.raises(ValueError, match=r"^evaluators\.segmentation: the data set has no masks"):
        segmentation.run(blind, validation)
    with pytest.raises(ValueError, match=r"^evaluators\.segmentation: 1 train image [^\n]*$"):
        segmentation.run(draw(0, 1), validation)
