"""Extraction: every example once, in order, whatever the batches and the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax.evaluators import FeatureCache, extract
from vitjax.evaluators.features import in_batches, take_sample

N, D, C = 21, 3, 5


@jax.jit
def encode(batch):
    image = batch["image"].astype(jnp.float32).mean((1, 2))  # [B, 3]
    return {"pooled": 2.0 * image, "logits": jnp.tile(image[:, :1], (1, C))}


def split():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (N, 2, 4, D), np.uint8),
        "label": rng.integers(0, C, N, np.int32),
        "index": np.arange(N, dtype=np.uint32),
    }


def batches(examples, size):
    """Batches of equal size, the last one filled up with padding rows that look like example 0."""
    for at in range(0, len(examples["label"]), size):
        batch = {name: rows[at : at + size] for name, rows in examples.items()}
        filled = len(batch["label"])
        pad = [(0, size - filled)]
        batch = {k: np.pad(v, pad + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}
        batch["label"][filled:] = -1
        yield batch


@pytest.mark.parametrize("size", [4, 7, 8, 32])
def test_no_example_is_lost_or_repeated_and_no_padding_is_kept(size):
    examples = split()
    frozen = extract(encode, batches(examples, size))
    np.testing.assert_array_equal(frozen.label, examples["label"])
    want = 2 * examples["image"].astype(np.float64).mean((1, 2))
    np.testing.assert_allclose(frozen.pooled, want, rtol=1e-6)
    assert frozen.logits.shape == (N, C)
    assert {type(leaf) for leaf in frozen if leaf is not None} == {np.ndarray}
    assert frozen.pooled.dtype == frozen.logits.dtype == np.float32


def test_the_order_is_that_of_the_examples_not_of_the_batches():
    examples = split()
    mixed = np.random.default_rng(1).permutation(N)
    frozen = extract(encode, batches({k: v[mixed] for k, v in examples.items()}, 4))
    want = extract(encode, batches(examples, 8))
    jax.tree.map(np.testing.assert_array_equal, frozen, want)


def test_eight_devices_see_what_one_does():
    mesh = jax.make_mesh((2, 4), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, P(("replica", "data")))
    with jax.set_mesh(mesh):
        cut = (jax.device_put(batch, rows) for batch in batches(split(), 16))
        got = extract(encode, cut)
    jax.tree.map(np.testing.assert_array_equal, got, extract(encode, batches(split(), 16)))


def test_features_in_bfloat16_come_out_float32_and_logits_may_be_missing():
    frozen = extract(
        lambda batch: {"pooled": encode(batch)["pooled"].astype(jnp.bfloat16)}, batches(split(), 8)
    )
    assert frozen.pooled.dtype == np.float32
    assert frozen.logits is None


def test_one_batch_is_dispatched_ahead_of_the_fetch():
    events = []

    class Rows:
        def __init__(self, at):
            self.at = at

        def __array__(self, dtype=None, copy=None):
            events.append(f"fetch {self.at}")
            return np.full((2, D), self.at, np.float32)

    def slow(batch):
        at = int(batch["index"][0]) // 2
        events.append(f"encode {at}")
        return {"pooled": Rows(at)}

    extract(slow, list(batches({k: v[:6] for k, v in split().items()}, 2)))
    assert events == ["encode 0", "encode 1", "fetch 0", "encode 2", "fetch 1", "fetch 2"]


def test_an_example_that_comes_twice_and_an_empty_split_are_refused():
    examples = split()
    examples["index"][5] = 3
    with pytest.raises(ValueError, match=r"^example 3 came twice[^\n]*$"):
        extract(encode, batches(examples, 4))
    examples["label"][:] = -1
    for nothing in (batches(examples, 4), iter(())):
        with pytest.raises(ValueError, match=r"^no labelled example[^\n]*$"):
            extract(encode, nothing)


def test_a_split_is_encoded_once_in_a_round_and_timed():
    worked = []

    def features(name):
        worked.append(f"features {name}")
        return extract(encode, batches(split(), 8))

    def look(name):
        worked.append(f"sample {name}")
        return take_sample(crop, look_at, measure_at, batches(split(), 8))

    cache = FeatureCache(features, look)
    first = cache.get("train", ("pooled",))
    assert cache.get("train", ("pooled", "layers")).pooled is first.pooled
    assert first.sample is None
    alone, both = cache.get("test", ("sample",)), cache.get("test", ("pooled", "sample"))
    assert alone.sample is both.sample
    # Who reads the sample alone costs no pass over the split.
    assert worked == ["features train", "sample test", "features test"]
    assert set(cache.seconds) == {"features_train", "features_test", "sample_test"}
    assert min(cache.seconds.values()) > 0


def crop(batch):
    return {name: batch[name] for name in ("image", "label", "index")} | {
        "mask": batch["image"][..., 0]
    }


def look_at(images):
    return images.mean((1, 2), dtype=np.float32), images[:, ::2, ::2].astype(np.float32)


def measure_at(function, images):
    return function(images)


@pytest.mark.parametrize("size", [4, 32])
def test_a_sample_holds_every_example_once_in_order(size):
    examples = split()
    mixed = np.random.default_rng(1).permutation(N)
    given = batches({k: v[mixed] for k, v in examples.items()}, size)
    sample = take_sample(crop, look_at, measure_at, given)
    np.testing.assert_array_equal(sample.images, examples["image"])
    np.testing.assert_array_equal(sample.rows, np.arange(N))
    np.testing.assert_array_equal(sample.mask, examples["image"][..., 0])
    np.testing.assert_array_equal(sample.patches, examples["image"][:, ::2, ::2])
    assert sample.part is None
    assert sample.encode is look_at and sample.measure is measure_at


@pytest.mark.parametrize("count", [1, 4, 11])
def test_rows_go_in_batches_of_one_size_and_none_is_lost(count):
    images, sizes = split()["image"][:count], []

    def device(batch, more):
        sizes.append((len(batch), len(more)))
        return jnp.mean(batch, (1, 2)) + 0 * more[:, None], batch[:, :1] + more[:, None, None, None]

    more = np.arange(count)
    pooled, rows = in_batches(device, jnp.asarray, 4)(images, more)
    np.testing.assert_allclose(pooled, images.mean((1, 2)), rtol=1e-5)
    want = images[:, :1] + more[:, None, None, None].astype(np.float32)
    np.testing.assert_array_equal(rows, want)
    assert set(sizes) == {(4, 4)}


def test_features_that_are_not_finite_are_refused():
    def diverged(batch):
        pooled = encode(batch)["pooled"]
        return {"pooled": pooled.at[1].set(jnp.nan)}

    with pytest.raises(ValueError, match=r"^the features of 3 of 21 images are not finite[^\n]*$"):
        extract(diverged, batches(split(), 8))
