"""Matching: planted correspondences, and the protocol one point after the other in NumPy."""

import jax
import numpy as np
import pytest
from planted import eight_devices, looked_at
from scipy.ndimage import map_coordinates

from vitjax.evaluators import matching

H, W, SIZE, WIDTH, K = 6, 4, 24, 9, 5  # patches of 4 x 6 pixels


def noise(seed, count):
    """Patches of noise, points anywhere that three quarters of the images show, masks of boxes."""
    rng = np.random.default_rng(seed)
    points = np.concatenate(
        [rng.uniform(0, SIZE, (count, K, 2)), rng.random((count, K, 1)) < 0.75], axis=-1
    )
    mask = np.zeros((count, SIZE, SIZE), np.uint8)
    for each in mask:
        top, left = rng.integers(0, 12, 2)
        each[top : top + rng.integers(3, 12), left : left + rng.integers(3, 12)] = 2
    mask[0] = 0  # an image whose mask shows nothing
    patches = rng.normal(size=(count, H, W, WIDTH))
    return patches, rng.integers(0, 2, count), points.astype(np.float32), mask


def twins(points, size=SIZE, spread=0.0):
    """Two images of each of three classes with the same features and key points."""
    rng = np.random.default_rng(0)
    patches = np.repeat(rng.normal(size=(3, H, W, WIDTH)), 2, axis=0)
    patches += spread * rng.normal(size=patches.shape)
    shown = np.ones((6, len(points), 1))
    both = np.concatenate([np.broadcast_to(points, (6, *points.shape)), shown], axis=-1)
    return looked_at(patches, [4, 4, 1, 1, 2, 2], size=size, points=both.astype(np.float32))


INNER = np.array([[4.5, 5.5], [12.5, 9.5], [17.5, 18.5], [8.5, 14.5]])


def test_an_image_and_its_copy_match_in_full_at_any_scale():
    for scale in (1, 2):
        got = matching.run(None, twins(scale * INNER, scale * SIZE))
        assert got == {"pck_point": 1.0, "pck_image": 1.0}


def oracle(sample, couples, alpha):
    """The target's features upsampled as a whole, every pixel compared with every point."""

    def features(at, y, x):
        grid = [y * H / SIZE - 0.5, x * W / SIZE - 0.5]
        maps = np.moveaxis(sample.patches[at].astype(float), -1, 0)
        values = [map_coordinates(each, grid, order=1, mode="nearest") for each in maps]
        return np.stack(values, axis=-1)

    centres = np.stack(np.meshgrid(*[np.arange(SIZE) + 0.5] * 2, indexing="ij")).reshape(2, -1)
    hits = []
    for source, target in couples:
        inside = np.argwhere(sample.mask[target] > 0)
        shown = sample.points[target][sample.points[target, :, 2] > 0, :2]
        size = np.ptp(inside, axis=0).max() + 1 if len(inside) else np.ptp(shown, axis=0).max()
        maps = features(target, *centres)
        maps /= np.linalg.norm(maps, axis=1, keepdims=True)
        here = []
        for (y, x, first), (to_y, to_x, second) in zip(
            sample.points[source], sample.points[target], strict=True
        ):
            if first and second and size > 0:  # one point alone has no size
                point = features(source, np.array([y]), np.array([x]))[0]
                cosines = maps @ point / np.linalg.norm(point)
                best = cosines.round(6).argmax()  # beyond the outer patch centres all are equal
                here.append(np.hypot(*(centres[:, best] - (to_y, to_x))) <= alpha * size)
        hits.append(here)
    return {
        "pck_point": np.mean(np.concatenate(hits)),
        "pck_image": np.mean([np.mean(here) for here in hits if here]),
    }


def test_key_points_are_carried_by_the_protocol():
    patches, label, points, mask = noise(0, 9)
    sample = looked_at(patches, label, points=points, mask=mask).sample
    couples = matching.draw(sample.label, 1000, seed=0)
    got = matching.key_points(sample, couples, alpha=0.9)
    want = oracle(sample, couples, alpha=0.9)
    assert got == pytest.approx(want)
    assert 0.1 < want["pck_point"] < 0.9 and want["pck_point"] != want["pck_image"]


def test_a_distance_counts_up_to_alpha_times_the_object():
    split = twins(INNER)
    moved = split.sample.points.copy()
    moved[1::2, :, 0] += 3  # the copy's points stand 3 pixels lower than where they land
    mask = np.zeros((6, SIZE, SIZE), np.uint8)
    mask[:, 2:22, 6:9] = 5  # 20 pixels high
    moved = split._replace(sample=split.sample._replace(points=moved, mask=mask))
    assert matching.run(None, moved, alpha=0.151)["pck_point"] == 1.0
    assert matching.run(None, moved, alpha=0.149)["pck_point"] == 0.0
    mask[:, 2:22, 6:9] = 255  # nothing known: the points, 13 pixels apart, stand for the object
    assert matching.run(None, moved, alpha=0.22)["pck_point"] == 0.0
    assert matching.run(None, moved, alpha=0.24)["pck_point"] == 1.0


def test_points_that_one_image_hides_do_not_count():
    split = twins(INNER)
    points = split.sample.points.copy()
    points[0, 1] = (20.5, 2.5, 0)  # elsewhere, and not visible
    points[1, 2] = (2.5, 20.5, 0)
    points[2:, :, 2] = 0  # these pairs share nothing
    got = matching.run(None, split._replace(sample=split.sample._replace(points=points)))
    assert got == {"pck_point": 1.0, "pck_image": 1.0}


def test_pairs_are_of_one_class_ordered_distinct_and_follow_the_seed_alone():
    label = np.array([3, 1, 3, 3, 1, 8])
    every = matching.draw(label, 100, seed=0)
    assert len(every) == len({tuple(pair) for pair in every}) == 3 * 2 + 2 * 1
    assert (every[:, 0] != every[:, 1]).all()
    assert (label[every[:, 0]] == label[every[:, 1]]).all()
    few = matching.draw(label, 4, seed=0)
    np.testing.assert_array_equal(few, matching.draw(label, 4, seed=0))
    assert len(few) == 4 and any((matching.draw(label, 4, s) != few).any() for s in range(1, 5))


def planted_parts(seed, spread):
    """Parts 1 to 3 on whole patches, and features that name the part; two images of each class."""
    rng = np.random.default_rng(seed)
    part = rng.integers(0, 4, (6, H, W))
    patches = np.eye(WIDTH)[part] + spread * rng.normal(size=(6, H, W, WIDTH))
    pixels = part.repeat(SIZE // H, axis=1).repeat(SIZE // W, axis=2).astype(np.uint8)
    return looked_at(patches, [0, 0, 1, 1, 2, 2], part=pixels), part


def test_planted_parts_match_in_full_and_chance_is_their_share():
    split, part = planted_parts(0, 0.05)
    got = matching.run(None, split)
    assert list(got) == ["part_accuracy", "part_chance"]
    assert got["part_accuracy"] == 1.0
    shares = []
    for source, target in ((0, 1), (1, 0), (2, 3), (3, 2), (4, 5), (5, 4)):
        asked = part[source][part[source] > 0]
        shares += [np.mean(part[target] == each) for each in asked if (part[target] == each).any()]
    assert got["part_chance"] == pytest.approx(np.mean(shares))


def test_features_of_noise_match_parts_by_chance():
    rng = np.random.default_rng(5)
    part = rng.integers(0, 4, (20, H, W))
    pixels = part.repeat(SIZE // H, axis=1).repeat(SIZE // W, axis=2).astype(np.uint8)
    got = matching.run(None, looked_at(rng.normal(size=(20, H, W, WIDTH)), [0] * 20, part=pixels))
    assert got["part_accuracy"] == pytest.approx(got["part_chance"], abs=0.02)  # of 6800 patches


def test_parts_by_hand():
    part = np.zeros((2, 4, 4), np.uint8)  # 2 x 2 patches of 2 x 2 pixels
    part[0] = [[1, 1, 2, 2], [1, 0, 2, 0], [3, 3, 9, 9], [3, 3, 0, 0]]  # a tie: 0, the lower
    part[1] = [[1, 1, 1, 1], [1, 1, 1, 0], [2, 2, 255, 255], [2, 2, 255, 255]]
    first = [[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]]
    second = [[[2, 0, 0], [0, 2, 0]], [[0, 0, 2], [1, 0, 1]]]
    got = matching.run(None, looked_at([first, second], [0, 0], part=part))
    # Forth: 1 finds 1; 2 finds a 1; 3 is not in the target. Back: 1 finds 1, the other 1 finds 2
    # and 2 finds 3.
    assert got["part_accuracy"] == pytest.approx(2 / 5)
    assert got["part_chance"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 4 + 1 / 4 + 1 / 4) / 5)


def test_eight_devices_agree_with_one_to_the_last_point():
    patches, label, points, mask = noise(0, 9)
    part = np.random.default_rng(1).integers(0, 3, (9, SIZE, SIZE)).astype(np.uint8)
    split = looked_at(patches, label, points=points, mask=mask, part=part)
    mesh = eight_devices()
    for pairs in (3, 1000):
        alone = matching.run(None, split, pairs=pairs, alpha=0.6)
        assert set(alone) == {"pck_point", "pck_image", "part_accuracy", "part_chance"}
        with jax.set_mesh(mesh):
            assert matching.run(None, split, pairs=pairs, alpha=0.6) == alone


@pytest.mark.parametrize(("key", "value"), [("pairs", 0), ("alpha", 0.0), ("seed", -1)])
def test_bad_settings_are_one_line_that_names_the_key(key, value):
    with pytest.raises(ValueError, match=rf"^evaluators\.matching\.{key}=[^\n]*expected[^\n]*$"):
        matching.run(None, twins(INNER), **{key: value})


def test_what_cannot_be_measured_is_one_line():
    split = twins(INNER)
    sample = split.sample
    hidden = sample.points * np.array([1, 1, 0], np.float32)
    blank = np.zeros((6, SIZE, SIZE), np.uint8)
    for changes, says in (
        ({"points": None}, "the data set has no key points or part masks"),
        ({"label": np.arange(6, dtype=np.int32)}, "no two images of the sample share a class"),
        ({"points": hidden}, "no pair of images shows one key point twice"),
        ({"points": None, "part": blank}, "no pair of images shows one part twice"),
    ):
        with pytest.raises(ValueError, match=rf"^evaluators\.matching: {says}[^\n]*$"):
            matching.run(None, split._replace(sample=sample._replace(**changes)))
