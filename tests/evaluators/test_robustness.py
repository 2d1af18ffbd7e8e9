"""Readouts against scikit-learn; corruptions and alterations on encoders that see one thing."""

import itertools

import jax
import numpy as np
import pytest
from planted import eight_devices, frozen
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vitjax.evaluators import Frozen, alterations, corruptions, cues, knn
from vitjax.evaluators.features import Sample
from vitjax.evaluators.readout import readout
from vitjax.ops.corruptions import corrupt


def split(images, label, see):
    """A split whose sample is all of it, through an encoder pooled = see(images)."""

    def encode(images):
        pooled = np.asarray(see(np.asarray(images, np.float32)), np.float32)
        return pooled, pooled[:, None, None]

    pooled, patches = encode(images)
    label = np.asarray(label, np.int32)
    sample = Sample(np.asarray(images), np.arange(len(label)), label, pooled, patches, encode)
    return Frozen(label, pooled, sample=sample)


# Readouts.


@pytest.fixture(scope="module")
def digits():
    pixels, label = load_digits(return_X_y=True)
    return frozen(pixels[:1087], label[:1087]), frozen(pixels[1087:], label[1087:])


@pytest.mark.parametrize("classes", [range(10), (3, 8)])
def test_linear_is_ridge_classifier_of_scikit_learn(digits, classes):
    train, validation = (
        frozen(each.pooled[np.isin(each.label, classes)], each.label[np.isin(each.label, classes)])
        for each in digits
    )
    judge = make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0))
    want = judge.fit(train.pooled.astype(float), train.label).predict(validation.pooled)
    got = readout(train, "linear")(validation.pooled)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, want)
    assert np.mean(got == validation.label) > 0.85


def test_linear_survives_a_feature_that_is_constant_in_train_alone():
    train = frozen([[0.1, 1], [0.1, 2], [0.1, 9], [0.1, 8]], [0, 0, 1, 1])
    assert readout(train, "linear")(np.float32([[50, 1.5], [-50, 8.5]])).tolist() == [0, 1]


def test_knn_is_that_of_scikit_learn_and_of_the_evaluator(digits):
    train, validation = digits
    judge = KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    want = judge.fit(train.pooled, train.label).predict(validation.pooled)
    got = readout(train, "knn")(validation.pooled)
    assert np.mean(got != want) < 2 / len(want)
    hits = knn.run(train, validation, k=(20,))
    assert {"top1_k20": np.mean(got == validation.label)} == hits
    with jax.set_mesh(eight_devices()):
        np.testing.assert_array_equal(readout(train, "knn")(validation.pooled), got)
        few = frozen(np.tile([[1.0, 0.0]], (9, 1)), [3] * 9)  # nine rows on eight devices
        assert readout(few, "knn")(np.float32([[-1, 0]])).tolist() == [3]


# Corruptions.


def brightness_of_cells(images):
    """4 x 4 means of a side of 16."""
    return images.reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4, 5)).reshape(-1, 16)


@pytest.fixture(scope="module")
def written():
    """Digits as pictures of 16 pixels: 400 to train, 37 to validate."""
    pixels, label = load_digits(return_X_y=True)
    images = np.kron(pixels.reshape(-1, 8, 8), np.ones((1, 2, 2)))[..., None] * [15.0, 12.0, 9.0]
    images = images.astype(np.uint8)
    return (
        split(images[:400], label[:400], brightness_of_cells),
        split(images[400:437], label[400:437], brightness_of_cells),
    )


NAMES = ("contrast", "pixelate", "gaussian_noise")


@pytest.fixture(scope="module")
def corrupted(written):
    return corruptions.run(*written, names=NAMES, scale="cifar", severities=(1, 5))


def test_error_is_that_of_the_readout_on_corrupted_images(written, corrupted):
    train, validation = written
    sample, predict = validation.sample, readout(train, "linear")
    keys = jax.random.split(jax.random.key(0), 37)
    errors = {}
    for name in NAMES[:2]:
        each = []
        for severity in (1, 5):
            images = sample.images.astype(np.float32)
            images = corrupt(images, keys, name=name, severity=severity, scale="cifar")
            answers = predict(brightness_of_cells(np.asarray(images)))
            each.append(np.mean(answers != sample.label))
        errors[name] = np.mean(each)
        assert corrupted[f"error_{name}"] == pytest.approx(errors[name])
    errors["gaussian_noise"] = corrupted["error_gaussian_noise"]
    assert corrupted["mean_error"] == pytest.approx(np.mean(list(errors.values())))
    shares = (errors["contrast"] / 0.85320, errors["pixelate"] / 0.71784)
    shares += (errors["gaussian_noise"] / 0.88643,)
    assert corrupted["mce"] == pytest.approx(np.mean(shares))
    assert corrupted["clean_top1"] == np.mean(predict(sample.pooled) == sample.label) > 0.7
    assert corrupted["error_contrast"] > 1 - corrupted["clean_top1"]
    names = [f"error_{name}" for name in NAMES]
    assert list(corrupted) == ["clean_top1", "mean_error", "mce", *names]


def test_noise_follows_the_row_of_an_image_not_devices_or_batches(written, monkeypatch):
    sample = written[1].sample
    settings = ("gaussian_noise", 3, "cifar", 7)
    want = corruptions.corrupted(sample.images, sample.rows, *settings)
    assert want.dtype == np.uint8 and want.shape == sample.images.shape
    assert (want != sample.images).mean() > 0.3
    grey = corruptions.corrupted(np.full_like(sample.images, 99), sample.rows, *settings)
    assert (grey[0] != grey[1]).mean() > 0.3
    with jax.set_mesh(eight_devices()):
        monkeypatch.setattr(corruptions, "IMAGES", 2)  # three steps of 16, the last one filled up
        some = np.arange(36, -1, -1)
        got = corruptions.corrupted(sample.images[some], sample.rows[some], *settings)
    np.testing.assert_array_equal(got, want[some])
    again = corruptions.corrupted(sample.images, sample.rows, *settings[:3], 8)
    assert (again != want).mean() > 0.3


# Alterations.


def one_hot(classes, of):
    return np.eye(of, dtype=np.float32)[classes]


def know(classes, readout="linear"):
    """Training features that name their class."""
    return frozen(one_hot(np.arange(classes), classes), np.arange(classes))


def test_shift_counts_pairs_of_moves_that_agree():
    side, count, draws = 17, 11, 4
    images = np.zeros((count, side, side, 3), np.uint8)
    images[:, :, 8] = 255  # a line: the answer is its column

    def column(images):
        return one_hot(images[:, 8, :, 0].argmax(axis=1), side)

    validation = split(images, [8] * count, column)
    got = alterations.shift(know(side), validation, share=0.2, draws=draws, seed=5)
    rights = np.array(
        [np.random.default_rng((5, row)).integers(-3, 4, (draws, 2))[:, 1] for row in range(count)]
    )
    pairs = [rights[:, a] == rights[:, b] for a, b in itertools.combinations(range(draws), 2)]
    still = np.mean(rights == 0)
    want = {"top1": 1, "top1_shifted": still, "consistency": np.mean(pairs), "cosine": still}
    assert got == pytest.approx(want)
    assert 0 < got["consistency"] < 1 and 0 < still < 1

    got = alterations.shift(know(side), validation, share=0.0, padding="edge")
    assert got == {"top1": 1, "top1_shifted": 1, "consistency": 1, "cosine": 1}


def quadrants(images):
    """Which quarter of the image is bright."""
    half = images.shape[1] // 2
    bright = images[..., 0].reshape(-1, 2, half, 2, half).mean(axis=(2, 4)).reshape(-1, 4)
    return one_hot(bright.argmax(axis=1), 4)


def lit(label, side=16):
    images = np.zeros((len(label), 2, side // 2, 2, side // 2, 3), np.uint8)
    images[np.arange(len(label)), np.array(label) // 2, :, np.array(label) % 2] = 200
    return images.reshape(len(label), side, side, 3)


def test_shuffle_moves_what_an_answer_rests_on():
    label = np.arange(41) % 4
    got = alterations.shuffle(know(4), split(lit(label), label, quadrants), grids=(1, 2, 4))
    orders = [np.random.default_rng((0, row, 2)).permutation(4) for row in range(41)]
    stayed = np.mean([order[at] == at for order, at in zip(orders, label, strict=True)])
    assert list(got) == ["top1", "top1_1x1", "top1_2x2", "top1_4x4"]
    assert got["top1"] == got["top1_1x1"] == 1
    assert got["top1_2x2"] == pytest.approx(stayed) and 0.05 < stayed < 0.6

    def histogram(images):  # no order of cells in it
        return np.stack([images.mean(axis=(1, 2, 3)), 255 - images.mean(axis=(1, 2, 3))], axis=1)

    images = np.random.default_rng(0).integers(0, 100, (6, 16, 16, 3)) + 100 * (
        label[:6] % 2
    ).reshape(6, 1, 1, 1)
    textured = split(images, label[:6] % 2, histogram)
    got = alterations.shuffle(textured, textured, readout="knn", k=1)
    assert set(got.values()) == {1.0} and len(got) == 4


def test_occlusion_takes_the_share_away():
    def darkness(images):
        dark = np.round(4 * (images == 0).all(axis=3).mean(axis=(1, 2))).astype(int)
        return one_hot(dark, 5)

    images = np.full((5, 16, 16, 3), 90, np.uint8)
    validation = split(images, [0, 1, 1, 2, 3], darkness)
    got = alterations.occlusion(know(5), validation, grid=8)
    assert got == {"top1": 0.2, "top1_0.25": 0.4, "top1_0.5": 0.2, "top1_0.75": 0.2}


def test_scale_shrinks_about_the_centre_on_the_mean_colour():
    label = np.arange(9) % 4
    validation = split(lit(label), label, quadrants)
    got = alterations.scale(know(4), validation, shares=(1.0, 0.5, 0.25))
    assert got == {"top1": 1, "top1_1": 1, "top1_0.5": 1, "top1_0.25": 1}

    def corner(images):  # sees the object only where it fills the canvas
        return one_hot((images[:, 0, 0, 0] == 200).astype(int), 2)

    got = alterations.scale(know(2), split(lit([0] * 5), [1] * 5, corner), shares=(1.0, 0.5))
    assert got == {"top1": 1, "top1_1": 1, "top1_0.5": 0}


# Images of class c are a spot (place: shape) of the c-th width (spectrum: texture).
def spots(label, side=16):
    at = np.arange(side)
    images = []
    for c in label:
        bumps = np.exp(-0.5 * ((at - 4 - 4 * c) / (0.8 + 0.7 * c)) ** 2)
        images.append(40 + 20 * np.outer(bumps, bumps))
    return np.round(np.stack(images))[..., None].repeat(3, axis=3).astype(np.uint8)


def waves(images):
    return np.fft.rfft2(images[..., 0], axes=(1, 2))[:, :3, :3].reshape(len(images), -1)[:, 1:]


def place(images):
    """The phase of low waves."""
    phase = np.angle(waves(images))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1)


def width(images):
    """The amplitude of low waves."""
    return np.abs(waves(images))


@pytest.mark.parametrize(("see", "shape_share"), [(place, 1.0), (width, 0.0)])
def test_shape_share_of_a_planted_classifier(see, shape_share):
    label = np.arange(15) % 3
    both = split(spots(label), label, see)
    got = cues.cue_conflict(both, both, readout="knn", k=1)
    want = {"shape_top1": shape_share, "texture_top1": 1 - shape_share, "shape_share": shape_share}
    assert got == {"top1": 1.0, **want}


def test_shape_share_leaves_out_answers_for_neither():
    label = np.arange(16) % 3
    validation = split(spots(label), label, lambda images: one_hot([0] * len(images), 3))
    got = cues.cue_conflict(know(3), validation, seed=2)
    shape = np.sum(label == 0)
    texture = np.sum(label[cues.partners(validation.sample, 2, "cue_conflict")] == 0)
    assert 0 < shape / 16 < 0.5 and texture > 0
    assert got["shape_share"] == pytest.approx(shape / (shape + texture))


def test_shape_share_of_who_answers_neither_is_nan():
    label = np.arange(6) % 2
    validation = split(spots(label), label, lambda images: one_hot([2] * len(images), 3))
    got = cues.cue_conflict(know(3), validation)
    assert got["shape_top1"] == got["texture_top1"] == 0 and np.isnan(got["shape_share"])


def test_style_changes_colours_and_nothing_else():
    colours = np.array([[180, 60, 60], [60, 60, 180]])
    label = np.arange(8) % 2
    images = spots(label) + colours[label][:, None, None]

    def colour(images):
        return images.mean(axis=(1, 2))

    both = split(images, label, colour)
    got = cues.style(both, both, readout="knn", k=1)
    assert got["top1"] == 1 and got["top1_recoloured"] == 0  # it answers for the partner
    both = split(images, label, place)
    assert set(cues.style(both, both, readout="knn", k=1).values()) == {1.0}


def test_partners_are_of_another_class_and_any_of_them():
    label = np.array([0] * 5 + [3] * 2 + [1] * 4)[np.random.default_rng(0).permutation(11)]
    sample = split(spots(label % 2), label, place).sample
    seen = np.zeros((11, 11), int)
    for seed in range(300):
        seen[np.arange(11), cues.partners(sample, seed, "style")] += 1
    assert ((seen > 0) == (label[:, None] != label[None, :])).all()
    expected = 300 / (label[:, None] != label[None, :]).sum(axis=1, keepdims=True)
    assert (np.abs(seen - expected)[seen > 0] < 5 * np.sqrt(expected).max()).all()


def test_one_class_has_no_conflict():
    validation = split(spots([0, 0]), [0, 0], place)
    with pytest.raises(ValueError, match=r"^evaluators\.cue_conflict: [^\n]*class 0[^\n]*$"):
        cues.cue_conflict(validation, validation)


ALL = {
    "corruptions": corruptions.run,
    "shift": alterations.shift,
    "shuffle": alterations.shuffle,
    "occlusion": alterations.occlusion,
    "scale": alterations.scale,
    "cue_conflict": cues.cue_conflict,
    "style": cues.style,
}


@pytest.mark.parametrize("name", ALL)
def test_a_split_without_images_is_one_clear_line(name):
    with pytest.raises(ValueError, match=rf"^evaluators\.{name}: [^\n]*images[^\n]*$"):
        ALL[name](know(2), know(2))


@pytest.mark.parametrize(
    ("name", "key", "given"),
    [
        *((name, "readout", "forest") for name in ALL),
        *((name, "k", 0) for name in ALL),
        *((name, "seed", -1) for name in ALL if name != "scale"),
        ("corruptions", "names", ("rain",)),
        ("corruptions", "names", "fog"),
        ("corruptions", "severities", (0, 1)),
        ("corruptions", "severities", ()),
        ("corruptions", "scale", "mnist"),
        ("shift", "share", 1.0),
        ("shift", "draws", 1),
        ("shift", "padding", "zero"),
        ("shuffle", "grids", (0, 2)),
        ("shuffle", "grids", ()),
        ("shuffle", "grids", (17,)),
        ("occlusion", "shares", (0.5, 1.5)),
        ("occlusion", "grid", 0),
        ("scale", "shares", (0.0,)),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(name, key, given):
    validation = split(spots([0, 1]), [0, 1], place)
    with pytest.raises(ValueError, match=rf"^evaluators\.{name}\.{key}=[^\n]*expected[^\n]*$"):
        ALL[name](validation, validation, **{key: given})
