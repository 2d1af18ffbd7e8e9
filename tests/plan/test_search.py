"""The search finds the most images that fit, and compiles few steps for it."""

import dataclasses

import pytest

from vitjax.plan import search


@dataclasses.dataclass
class Fake:
    images: int
    peak: int
    hbm: int
    state: int

    @property
    def fits(self):
        return self.peak <= self.hbm

    @property
    def activations(self):
        return self.peak - self.state


@pytest.mark.parametrize("state", [0, 100, 900])
@pytest.mark.parametrize("each", [1, 7, 90])
@pytest.mark.parametrize("bend", [0.0, 0.02])
def test_the_largest_batch_is_within_an_eighth_of_the_largest_there_is(state, each, bend):
    tried = []

    def peak(images):
        return int(state + each * images + bend * images**2)

    def compile_for(images):
        tried.append(images)
        return Fake(images, peak(images), 1000, state)

    found = search.largest(compile_for)
    true = max((n for n in range(1, search.MOST + 1) if peak(n) <= 1000), default=1)
    assert found.fits == (peak(1) <= 1000)
    assert true - max(1, true // 8) <= found.images <= true
    assert len(tried) == len(set(tried)) <= 11


def test_where_not_one_image_fits_that_is_what_comes_back():
    found = search.largest(lambda images: Fake(images, 2000 + images, 1000, 1500))
    assert found.images == 1 and not found.fits
