"""Policies: what they draw, against published definitions; what they do, against Pillow."""

import functools
import random
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from PIL import Image, ImageFilter, ImageOps
from scipy import stats

from tests.torch_packages import package
from vitjax.ops import policies
from vitjax.ops.distort import NUMBER, OPERATIONS

DRAWS = 6000


def drawn(draw, *settings):
    """Names [DRAWS, L], amounts [DRAWS, L] and places [DRAWS, L, 2]."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    run = jax.jit(jax.vmap(lambda key: draw(key, *settings)))
    numbers, amounts, places = (np.asarray(x) for x in run(keys))
    return np.array(OPERATIONS)[numbers], amounts, places


def test_tf_takes_sixteen_operations_evenly_and_always():
    names, amounts, places = drawn(policies.draw_randaugment_tf, 2, 10)
    for layer in (0, 1):
        each, counts = np.unique(names[:, layer], return_counts=True)
        assert len(each) == 16 and "identity" not in each
        assert stats.chisquare(counts).pvalue > 1e-3
    pair = np.unique(names[:, 0] + names[:, 1], return_counts=True)[1]
    assert len(pair) == 256  # with replacement, layers apart
    # At M = 10, by hand from EfficientNet's code; None: either sign.
    want = {"rotate": 30, "shear_x": 0.3, "shear_y": 0.3, "translate_x": 100, "translate_y": 100}
    for name, size in want.items():
        signs = amounts[names == name] / size
        np.testing.assert_allclose(np.abs(signs), 1.0, rtol=1e-6)
        assert abs(signs.mean()) < 0.2
    want = {"posterize": 4, "solarize": 256, "solarize_add": 110, "cutout": 40}
    want |= dict.fromkeys(("color", "contrast", "brightness", "sharpness"), 1.9)
    for name, size in want.items():
        np.testing.assert_allclose(amounts[names == name], size, rtol=1e-6)
    assert stats.kstest(places.ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(("magnitude", "bits", "threshold"), [(5, 2, 128), (15, 6, 384)])
def test_tf_solarize_and_posterize_weaken_with_magnitude(magnitude, bits, threshold):
    names, amounts, _ = drawn(policies.draw_randaugment_tf, 1, magnitude)
    assert set(amounts[names == "posterize"]) == {bits}
    assert set(amounts[names == "solarize"]) == {threshold}


@functools.cache
def timm_drawn():
    return drawn(policies.draw_randaugment_timm, 2, 9, 0.5, 0.5)


def test_timm_takes_fifteen_operations_and_leaves_half_of_them():
    names, _, _ = timm_drawn()
    each, counts = np.unique(names, return_counts=True)
    assert set(each) == set(OPERATIONS) - {"cutout"}
    counts = dict(zip(each, counts, strict=True))
    assert abs(counts.pop("identity") / names.size - 0.5) < 0.02
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def timm_level(rng):
    return min(max(rng.gauss(9, 0.5), 0.0), 10.0) / 10


def either(rng, value):
    return value if rng.random() < 0.5 else -value


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("rotate", lambda rng: either(rng, 30 * timm_level(rng))),
        ("shear_x", lambda rng: either(rng, 0.3 * timm_level(rng))),
        ("translate_y", lambda rng: either(rng, 0.45 * timm_level(rng))),
        ("color", lambda rng: max(0.1, 1 + either(rng, 0.9 * timm_level(rng)))),
        ("posterize", lambda rng: 4 - int(4 * timm_level(rng))),
        ("solarize", lambda rng: 256 - min(256, int(256 * timm_level(rng)))),
        ("solarize_add", lambda rng: min(128, int(110 * timm_level(rng)))),
    ],
)
def test_timm_amounts_are_distributed_as_its_levels(name, level):
    names, amounts, _ = timm_drawn()
    rng = random.Random(0)
    want = np.array([level(rng) for _ in range(DRAWS)])
    got = amounts[names == name]
    assert stats.ks_2samp(got, want).pvalue > 1e-3
    np.testing.assert_allclose([got.min(), got.max()], [want.min(), want.max()], rtol=0.1, atol=2)


def test_autoaugment_draws_pairs_with_their_probabilities():
    assert policies._imagenet_policy()[0].shape == (25, 2)
    names, got, _ = drawn(policies.draw_autoaugment)
    # Posterize stands in pairs 0, 3 (twice), 7 and 9: a share of their probabilities over 25.
    share = (names == "posterize").sum() / DRAWS
    assert abs(share - (0.4 + 0.6 + 0.6 + 0.8 + 0.4) / 25) < 0.02
    assert set(got[names == "posterize"]) <= {4.0, 5.0, 6.0}  # magnitudes 8 and 7, 6, 5
    rotations = np.unique(np.abs(got[names == "rotate"]))
    np.testing.assert_allclose(rotations, [10, 30 * 8 / 9, 30], rtol=1e-6)
    assert abs(np.sign(got[names == "rotate"]).mean()) < 0.15
    colours = np.unique(got[names == "color"])
    np.testing.assert_allclose(colours, [0.2, 0.6, 0.8, 1.0, 1.2, 1.4, 1.8], atol=1e-6)


def picture(side=32):
    return np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)


def test_three_augment_does_one_of_three_things_to_each_image():
    image = picture()
    keys = jax.random.split(jax.random.key(2), 300)
    run = jax.jit(jax.vmap(policies.three_augment, (None, 0)))
    got = np.asarray(run(image.astype(np.float32), keys))
    pillow = Image.fromarray(image)
    grey = np.asarray(pillow.convert("L").convert("RGB"), np.float32)
    solar = np.asarray(ImageOps.solarize(pillow, 128), np.float32)
    is_grey = np.abs(got - grey).max(axis=(1, 2, 3)) < 1
    is_solar = np.abs(got - solar).max(axis=(1, 2, 3)) < 0.01
    blurred = got[~is_grey & ~is_solar]
    counts = [is_grey.sum(), is_solar.sum(), len(blurred)]
    assert sum(counts) == len(got) and stats.chisquare(counts).pvalue > 1e-3
    spread = blurred.std(axis=(1, 2, 3))  # falls as the radius grows from 0.1 to 2
    for at, radius in ((spread.max(), 0.15), (spread.min(), 2.0)):
        want = pillow.filter(ImageFilter.GaussianBlur(radius))
        assert abs(at - np.asarray(want, np.float32).std()) < 4


@pytest.mark.parametrize("name", ["randaugment_tf", "randaugment_timm", "autoaugment"])
def test_policies_do_what_they_draw(name):
    """The layers in their order, one distortion after another."""
    image, key = picture().astype(np.float32), jax.random.key(11)
    policy = policies.POLICIES[name]
    seen = []

    def spy(image, operation, amount, place, **settings):
        seen.append(settings)
        return image * 2.0 + jnp.where(operation == NUMBER["identity"], 0.0, amount)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "distort", spy)
        got = policy(image, key)
    settings = {
        "randaugment_tf": (policies.draw_randaugment_tf, (2, 10)),
        "randaugment_timm": (policies.draw_randaugment_timm, (2, 9, 0.5, 0.5)),
        "autoaugment": (policies.draw_autoaugment, ()),
    }
    draw, given = settings[name]
    numbers, amounts, _ = (np.asarray(x) for x in draw(key, *given))
    for number, amount in zip(numbers, amounts, strict=True):
        shares = name != "randaugment_tf" and OPERATIONS[number].startswith("translate")
        amount = amount * 32 if shares else amount
        image = image * 2.0 + (amount if number else 0.0)
    np.testing.assert_allclose(got, image, rtol=1e-5)
    assert seen[0]["sampling"] == ("linear" if name == "randaugment_timm" else "nearest")


@pytest.mark.parametrize("name", policies.POLICIES)
def test_a_batch_on_a_mesh_is_its_images_one_by_one_and_each_costs_what_it_draws(name):
    policy, keys = policies.POLICIES[name], jax.random.split(jax.random.key(3), 16)
    images = np.stack([np.roll(picture(16), i, axis=0) for i in range(16)]).astype(np.float32)
    mesh = Mesh(
        np.array(jax.devices()).reshape(2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2
    )
    where = NamedSharding(mesh, PartitionSpec(("replica", "data")))
    with jax.set_mesh(mesh):
        batch = [jax.device_put(each, where) for each in (images, keys)]
        compiled = jax.jit(jax.vmap(policy)).lower(*batch).compile()
        got = compiled(*batch)
    assert got.sharding.is_equivalent_to(where, 4)
    alone = jax.jit(policy)
    want = [alone(image, key) for image, key in zip(images, keys, strict=True)]
    np.testing.assert_allclose(got, want, atol=1e-4)
    text = compiled.as_text()
    assert " conditional(" in text and "all-gather" not in text


@pytest.mark.parity
def test_tables_are_torchvisions_and_timms():
    autoaugment = package("torchvision.transforms.autoaugment")
    timm = package("timm.data.auto_augment")
    theirs = autoaugment.AutoAugment()
    space = theirs._augmentation_space(10, (100, 100))
    operations, chances, amounts = policies._imagenet_policy()
    for row, pair in enumerate(theirs.policies):
        for column, (name, chance, level) in enumerate(pair):
            ours = OPERATIONS[operations[row, column]]
            assert ours.replace("_", "") == name.lower()
            assert abs(chances[row, column] - chance) < 1e-6
            if level is not None:
                want = float(space[name][0][level])
                want += 1.0 if ours in policies.ENHANCEMENTS else 0.0
                assert abs(amounts[row, column] - want) < 1e-4

    names, amounts, _ = timm_drawn()
    words = {"posterize": "PosterizeIncreasing", "solarize": "SolarizeIncreasing"}
    words |= {name: f"{name.capitalize()}Increasing" for name in policies.ENHANCEMENTS}
    words |= {"translate_x": "TranslateXRel", "shear_y": "ShearY", "rotate": "Rotate"}
    random.seed(0)
    op = types.SimpleNamespace(hparams={"translate_const": 250})
    for name, word in words.items():
        levels = [min(max(random.gauss(9, 0.5), 0.0), 10.0) for _ in range(DRAWS)]
        want = [timm.LEVEL_TO_ARG[word](level, op.hparams)[0] for level in levels]
        got = amounts[names == name]
        assert stats.ks_2samp(got, want).pvalue > 1e-4, name
