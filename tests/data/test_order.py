import numpy as np
import pytest

from vitjax.data.order import TABLE_SIZE, example_at


def epoch_of(number, size, seed=7):
    examples = [
        example_at(number * size + i, seed=seed, size=size, shuffle=True) for i in range(size)
    ]
    assert {epoch for epoch, _ in examples} == {number}
    return [index for _, index in examples]


@pytest.mark.parametrize("size", [1, 2, 13, 300, TABLE_SIZE, TABLE_SIZE + 3])
def test_every_epoch_is_a_permutation(size):
    for epoch in (0, 3):
        assert sorted(epoch_of(epoch, size)) == list(range(size))


@pytest.mark.parametrize("size", [300, TABLE_SIZE])
def test_epochs_and_seeds_give_unrelated_orders(size):
    first = np.array(epoch_of(0, size))
    for other in (epoch_of(1, size), epoch_of(0, size, seed=8), range(size)):
        assert np.sum(first == np.array(other)) < 12  # Poisson of mean 1
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.25


def test_a_seed_may_be_any_number():
    assert sorted(epoch_of(0, 5, seed=2**40)) == list(range(5))
    assert epoch_of(0, 50, seed=2**40) != epoch_of(0, 50, seed=0)


def test_without_shuffle_the_order_is_that_of_the_split():
    got = [example_at(i, seed=0, size=3, shuffle=False) for i in range(7)]
    assert got == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_the_order_is_the_same_for_ever():
    """A change here breaks the resuming of every run that began before it."""
    small = [example_at(i, seed=3, size=10, shuffle=True)[1] for i in range(10)]
    large = [example_at(i, seed=3, size=1_281_167, shuffle=True)[1] for i in range(4)]
    assert small == [0, 7, 4, 8, 5, 2, 6, 1, 9, 3]
    assert large == [843482, 1097296, 370580, 494610]
