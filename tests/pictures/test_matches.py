"""Matches: each other's nearest, best first."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from vitjax.pictures.matches import Matches, angle_colours, draw_matches, mutual_matches

D = 6


def patches(h, w, seed):
    return np.random.default_rng(seed).normal(size=(h, w, D))


def test_pairs_are_mutual_nearest_neighbours_of_scikit_learn():
    a, b = patches(4, 5, 0), patches(3, 7, 1)
    found = mutual_matches(a, b, top=100)
    rows = [x.reshape(-1, D) for x in (a, b)]
    search = [NearestNeighbors(n_neighbors=1, metric="cosine").fit(x) for x in rows]
    to_b = search[1].kneighbors(rows[0])[1][:, 0]
    to_a = search[0].kneighbors(rows[1])[1][:, 0]
    want = {(i, j) for i, j in enumerate(to_b) if to_a[j] == i}
    at_a, at_b = found.a @ [5, 1], found.b @ [7, 1]
    assert set(zip(at_a, at_b, strict=True)) == want and len(at_a) == len(want) > 2
    cosine = [
        rows[0][i] @ rows[1][j] / np.linalg.norm(rows[0][i]) / np.linalg.norm(rows[1][j])
        for i, j in zip(at_a, at_b, strict=True)
    ]
    np.testing.assert_allclose(found.similarity, cosine, atol=1e-6)
    assert (np.diff(found.similarity) <= 0).all()
    np.testing.assert_array_equal(mutual_matches(a, b, top=2).a, found.a[:2])


def test_a_shifted_photo_matches_by_its_shift():
    a = patches(4, 6, 2)
    found = mutual_matches(a, 5.0 * np.roll(a, (1, 2), axis=(0, 1)), top=24)
    assert len(found.a) == 24
    np.testing.assert_array_equal((found.a + np.asarray([1, 2])) % np.asarray([4, 6]), found.b)


def test_only_what_the_masks_hold_is_matched():
    a, b = patches(4, 5, 0), patches(3, 7, 1)
    inside, there = np.zeros((4, 5), bool), np.zeros((3, 7), bool)
    inside[1:3, 2:] = there[:, 1:4] = True
    found = mutual_matches(a, b, masks=(inside, there))
    assert len(found.a)
    assert inside[tuple(found.a.T)].all() and there[tuple(found.b.T)].all()
    none = mutual_matches(a, b, masks=(inside, np.zeros_like(there)))
    assert len(none.a) == len(none.b) == len(none.similarity) == 0


def test_colour_is_the_direction_from_the_centre():
    at = np.asarray([[2, 4], [4, 2], [2, 0], [0, 2]])  # right, below, left, above
    red, green, blue = angle_colours(Matches(at, at, np.ones(4), ((5, 5), (5, 5)))).T.astype(int)
    assert red[0] > max(green[0], blue[0]) and min(green[2], blue[2]) > red[2]
    assert min(red[1], green[1]) > blue[1] and min(red[3], blue[3]) > green[3]


def test_lines_end_at_the_middle_of_their_patches(same_file):
    """One match, red on white: its left end lies in the left photo, its right end in the right."""
    white = np.full((24, 24, 3), 255, np.uint8)
    at = np.asarray([[0, 0]]), np.asarray([[3, 3]])
    only = Matches(*at, np.ones(1), ((2, 2), (4, 4)))
    red = np.asarray([[255, 0, 0]], np.uint8)
    pixels = same_file(lambda file: draw_matches((white, white), only, file, red)).astype(int)
    rows, columns = np.nonzero((pixels[..., 0] > 200) & (pixels[..., 1] < 60))
    photo = pixels.shape[1] * 24 / 54  # 24 + 2 + 24 pixels, and 2 on either side
    assert abs(columns.min() - photo / 4 - photo / 12) < 0.06 * photo
    assert abs(columns.max() - pixels.shape[1] + photo / 8 + photo / 12) < 0.06 * photo
    assert rows[columns.argmin()] < rows[columns.argmax()]
    empty = Matches(at[0][:0], at[1][:0], np.zeros(0), only.grids)
    same_file(lambda file: draw_matches((white, white), empty, file))
