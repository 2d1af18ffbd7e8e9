"""Erasing, mixup and cutmix: their algebra, and their draws against the published definitions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vitjax.ops.mix import cutmix_box, mix, random_erasing

B, H, W, C = 6, 17, 13, 7


@functools.cache
def erased(mode, probability, draws=3000):
    """Images of 5, erased: [draws, H, W, 3]."""
    keys = jax.random.split(jax.random.key(1), draws)
    image = jnp.full((H, W, 3), 5.0)
    erase = functools.partial(random_erasing, probability=probability, mode=mode)
    return np.asarray(jax.jit(jax.vmap(erase, in_axes=(None, 0)))(image, keys))


def published_erasing(rng, area=(0.02, 1 / 3), ratio=(0.3, 1 / 0.3)):
    """Height and width that timm erases (0, 0 where ten draws do not fit)."""
    for _ in range(10):
        target = H * W * rng.uniform(*area)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if h < H and w < W:
            return h, w
    return 0, 0


def test_erasing_removes_rectangles_of_the_published_sizes():
    hit = (erased("zero", 1.0) == 0).all(axis=-1)
    heights, widths = hit.any(axis=2).sum(axis=1), hit.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(hit.sum(axis=(1, 2)), heights * widths)  # one full rectangle
    rng = np.random.default_rng(0)
    want = np.array([published_erasing(rng) for _ in range(len(hit))])
    for ours, theirs in ((heights, want[:, 0]), (widths, want[:, 1])):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3
    reached = hit.any(axis=0)
    assert reached.all()  # every pixel can be erased


def test_erasing_fills_with_unit_noise_per_pixel_and_channel():
    images = erased("noise", 1.0)
    noise = images[images != 5.0]
    assert stats.kstest(noise[:20000], "norm").pvalue > 1e-3
    assert len(np.unique(noise)) > 0.9 * min(len(noise), 2**22)


def test_erasing_touches_the_given_share_of_images():
    share = (erased("zero", 0.25) == 0).any(axis=(1, 2, 3)).mean()
    assert abs(share - 0.25) < 0.03


def examples(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(B, H, W, 3)).astype(np.float32)
    labels = np.eye(C, dtype=np.float32)[np.arange(B) % C]
    return images, labels


@functools.cache
def mixer(mixup, cutmix, mode):
    """Compiled: keys [draws, B] -> images [draws, B, H, W, 3], labels [draws, B, C]."""
    run = functools.partial(mix, *examples(), mixup=mixup, cutmix=cutmix, mode=mode)
    return jax.jit(jax.vmap(lambda keys: run(keys=keys)))


def draws_of_keys():
    return jax.random.split(jax.random.key(2), (400, B))


@functools.cache
def mixed(mixup, cutmix, mode):
    """The same examples, mixed 400 times."""
    return jax.tree.map(np.asarray, mixer(mixup, cutmix, mode)(draws_of_keys()))


def own_share(labels):
    """[draws, B]: what is left of each example's own class; B < C, so partners differ."""
    return labels[:, np.arange(B), np.arange(B)]


@pytest.mark.parametrize("mode", ["batch", "example"])
def test_mixup_mixes_neighbours_and_their_labels_alike(mode):
    images, labels = examples()
    got, soft = mixed(0.3, 0.0, mode)
    share = own_share(soft)[..., None, None, None]
    want = share * images + (1 - share) * np.roll(images, 1, axis=0)
    np.testing.assert_allclose(got, want, atol=1e-5)
    share = own_share(soft)[..., None]
    np.testing.assert_allclose(
        soft, share * labels + (1 - share) * np.roll(labels, 1, axis=0), atol=1e-6
    )
    same = np.ptp(own_share(soft), axis=1) < 1e-7
    assert same.all() if mode == "batch" else not same.any()


def test_mixup_draws_from_its_beta_distribution():
    share = own_share(mixed(0.3, 0.0, "example")[1]).ravel()
    assert stats.kstest(share, stats.beta(0.3, 0.3).cdf).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["batch", "example"])
def test_cutmix_pastes_a_box_and_weighs_labels_by_its_true_area(mode):
    images, _ = examples()
    got, soft = mixed(0.0, 1.0, mode)
    own, other = got == images, got == np.roll(images, 1, axis=0)
    assert (own | other).all()
    pasted = ~own.all(axis=-1)  # [draws, B, H, W]
    np.testing.assert_allclose(1 - pasted.mean(axis=(2, 3)), own_share(soft), atol=1e-6)
    rows, columns = pasted.any(axis=3).sum(axis=2), pasted.any(axis=2).sum(axis=2)
    np.testing.assert_array_equal(rows * columns, pasted.sum(axis=(2, 3)))
    same = (pasted == pasted[:, :1]).all(axis=(1, 2, 3))
    assert same.all() if mode == "batch" else same.mean() < 0.1


def published_cutmix_box(rng, share):
    """Height and width of the box of the CutMix paper's code and timm."""
    side = math.sqrt(1 - share)
    h, w = int(H * side), int(W * side)
    y, x = rng.integers(0, H), rng.integers(0, W)
    rows = np.clip([y - h // 2, y + h // 2], 0, H)
    columns = np.clip([x - w // 2, x + w // 2], 0, W)
    return rows[1] - rows[0], columns[1] - columns[0]


def test_cutmix_boxes_are_distributed_as_published():
    rng = np.random.default_rng(0)
    shares = rng.uniform(size=4000).astype(np.float32)
    keys = jax.random.split(jax.random.key(4), len(shares))
    box = jax.jit(jax.vmap(lambda key, share: jnp.stack(cutmix_box(key, share, H, W))))
    top, bottom, left, right = np.asarray(box(keys, shares)).T
    want = np.array([published_cutmix_box(rng, share) for share in shares])
    assert stats.ks_2samp(bottom - top, want[:, 0]).pvalue > 1e-3
    assert stats.ks_2samp(right - left, want[:, 1]).pvalue > 1e-3
    assert abs(((bottom - top) * (right - left)).mean() - (want[:, 0] * want[:, 1]).mean()) < 2


@pytest.mark.parametrize("mixup", [0.0, 0.3])
def test_cutmix_draws_from_its_beta_distribution(mixup):
    got, soft = mixed(mixup, 1.0, "batch" if mixup else "example")
    shares = own_share(soft)[are_cut(got), 0] if mixup else own_share(soft).ravel()
    rng = np.random.default_rng(0)
    boxes = np.array([published_cutmix_box(rng, share) for share in rng.beta(1, 1, 4000)])
    pixels = ((1 - shares) * H * W).round()
    assert stats.ks_2samp(pixels, boxes[:, 0] * boxes[:, 1]).pvalue > 1e-3


def are_cut(images):
    """[draws]: whether every pixel of a batch is one of the two examples', unmixed."""
    own = examples()[0]
    return ((images == own) | (images == np.roll(own, 1, axis=0))).all(axis=(1, 2, 3, 4))


def test_both_switch_half_of_the_time():
    got, soft = mixed(0.3, 1.0, "batch")
    cut = are_cut(got)
    assert abs(cut.mean() - 0.5) < 0.1
    shares = own_share(soft)[~cut, 0]
    assert stats.kstest(shares, stats.beta(0.3, 0.3).cdf).pvalue > 1e-3


def test_batch_mode_draws_from_the_first_key_only():
    keys = draws_of_keys()
    others = keys.at[:, 1:].set(keys[:, :1])
    got = mixer(0.3, 1.0, "batch")(others)
    np.testing.assert_array_equal(got[0], mixed(0.3, 1.0, "batch")[0])
    np.testing.assert_array_equal(got[1], mixed(0.3, 1.0, "batch")[1])
