"""Neighbour sheets: the nearest by cosine, and red where the class is another."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from vitjax.pictures.neighbours import draw_neighbours, nearest

Q, N, D, K = 3, 20, 5, 4
RNG = np.random.default_rng(0)


def test_neighbours_are_those_of_scikit_learn():
    bank, queries = RNG.normal(size=(N, D)), RNG.normal(size=(Q, D))
    index, similarity = nearest(queries, bank, K)
    distance, want = NearestNeighbors(n_neighbors=K, metric="cosine").fit(bank).kneighbors(queries)
    np.testing.assert_array_equal(index, want)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-6)


def test_a_query_is_not_its_own_neighbour():
    bank = RNG.normal(size=(N, D))
    own = np.asarray([4, 0, 19])
    index, similarity = nearest(bank[own], bank, K, own)
    with_own, _ = nearest(bank[own], bank, K + 1)
    np.testing.assert_array_equal(with_own[:, 0], own)
    np.testing.assert_array_equal(index, with_own[:, 1:])
    assert np.isfinite(similarity).all()
    assert nearest(bank[own], bank, 99, own)[0].shape == (3, N - 1)


def test_equals_come_in_order_and_nothing_is_like_zero():
    bank = np.repeat(RNG.normal(size=(1, D)), N, axis=0)
    index, _ = nearest(bank[:1], bank, K)
    np.testing.assert_array_equal(index[0], np.arange(K))
    assert nearest(np.zeros((1, D)), bank, 1)[1] == 0


def test_red_is_where_the_class_is_another(same_file):
    images = np.full((2, 3, 8, 8, 3), 128, np.uint8)
    settings = {"names": ["a", "$b"], "neighbour_names": [["a", "a", "a"], ["$b", "$b", "a"]]}

    def red(**settings):
        pixels = same_file(
            lambda file: draw_neighbours(
                images[:, 0], images, np.full((2, 3), 0.5), file, **settings
            )
        ).astype(int)
        rows, columns = np.nonzero((pixels[..., 0] > 170) & (pixels[..., 1:].max(-1) < 40))
        return rows / len(pixels), columns / pixels.shape[1]

    rows, columns = red(**settings)
    assert len(rows) > 500 and rows.min() > 0.5 and columns.min() > 0.74  # second row, last
    assert not len(red()[0])
