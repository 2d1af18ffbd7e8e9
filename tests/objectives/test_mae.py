"""MAE and SimCLR: what they start at, what they see, and that gradients reach all of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import models, objectives

B, S = 4, 12
VIT = {"name": "vit", "variant": "Ti/4", "width": 16, "depth": 1, "mlp": 24, "heads": 2}
RESNET = {"name": "resnet", "variant": "18", "width": 0.0625, "stem": "small", "mask_token": True}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


def images(size=S, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(B, size, size, 3)), jnp.float32)


def started(name, encoder, size, **settings):
    objective = objectives.create(
        name, encoder=models.create(**encoder), image_size=size, **settings
    )
    params, extra = jax.jit(objective.init)(jax.random.key(0))
    return objective, params, extra


@pytest.fixture(scope="module")
def vit():
    objective, params, extra = started("mae", VIT | {"pool": "cls"}, S, **DECODER)
    return objective, params, extra, jax.jit(jax.value_and_grad(objective.loss, has_aux=True))


def test_mae_starts_where_it_says_and_gradients_reach_all(vit):
    objective, params, extra, loss = vit
    args = (extra, {"image": images()}, jax.random.key(1), jnp.int32(0))
    (value, (metrics, _)), grads = loss(params, *args)
    want = float(objective.expect.rpartition(" ")[2])
    np.testing.assert_allclose(value, want, rtol=0.25)
    assert metrics["rankme"] >= 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        silent = "key" in str(path) and "bias" in str(path)
        assert silent or np.abs(leaf).max() > 1e-9, path


def test_what_is_hidden_reaches_the_target_and_not_the_encoder(vit):
    """Changing one patch in all images changes the features of those that keep it, no others."""
    params = vit[1]
    changed = images().at[:, 4:8, 4:8].add(1.0)
    encoder = models.create(**VIT | {"pool": "cls"})
    variables = {"params": params["encoder"], "stats": {}}
    kept = jnp.asarray([[0, 2], [3, 4], [4, 8], [5, 6]], jnp.int32)
    encode = jax.jit(lambda x: encoder.apply(variables, x, kept=kept)[0].tokens)
    moved = np.abs(encode(images()) - encode(changed)).max(axis=(1, 2))
    np.testing.assert_array_equal(moved > 1e-6, [False, True, True, False])
    whole = jax.jit(lambda x: encoder.apply(variables, x)[0].tokens)(images())
    every = jnp.broadcast_to(jnp.arange(9, dtype=jnp.int32), (B, 9))
    same = encoder.apply(variables, images(), kept=every)[0].tokens
    np.testing.assert_allclose(same, whole, atol=1e-5)


def test_the_cut_puts_pixels_where_the_patches_are():
    from vitjax.objectives.mae import cut

    picture = np.arange(8 * 8 * 3, dtype=np.float32).reshape(1, 8, 8, 3)
    got = np.asarray(cut(jnp.asarray(picture), 4))
    np.testing.assert_array_equal(got[0, 1].reshape(4, 4, 3), picture[0, :4, 4:])
    np.testing.assert_array_equal(got[0, 2].reshape(4, 4, 3), picture[0, 4:, :4])


@pytest.mark.slow
def test_a_convolutional_encoder_reconstructs_behind_its_mask_token():
    objective, params, extra = started("mae", RESNET, 16, mask_ratio=0.5, **DECODER)
    loss = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
    args = (extra, {"image": images(16)}, jax.random.key(1), jnp.int32(0))
    (value, (_, new)), grads = loss(params, *args)
    assert np.isfinite(value) and np.abs(grads["encoder"]["mask_token"]).max() > 1e-9
    mean = new["stats"]["stem_norm"]["mean"]
    assert np.any(np.asarray(mean) != np.asarray(extra["stats"]["stem_norm"]["mean"]))


def test_simclr_finds_equal_views_and_starts_at_a_guess():
    objective, params, extra = started("simclr", VIT, S, head_hidden=24, head_features=8)
    loss = jax.jit(objective.loss)
    one = images()
    same = {"global": jnp.stack([one, one], axis=1)}
    alike = {"global": jnp.broadcast_to(one[:1, None], (B, 2, S, S, 3))}
    args = (jax.random.key(1), jnp.int32(0))
    guess, _ = loss(params, extra, alike, *args)
    np.testing.assert_allclose(guess, np.log(2 * B - 1), rtol=1e-4)
    found, _ = loss(params, extra, same, *args)
    assert found < guess


@pytest.mark.parametrize(
    ("name", "key", "settings"),
    [
        ("mae", "mask_ratio", {"mask_ratio": 1.0}),
        ("mae", "monitor_steps", {"monitor_steps": 0}),
        ("mae", "decoder_depth", {"decoder_depth": 0}),
        ("simclr", "temperature", {"temperature": 0.0}),
        ("simclr", "head_layers", {"head_layers": 0}),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(name, key, settings):
    with pytest.raises(ValueError, match=rf"^objective\.{key}=[^\n]*expected[^\n]*$"):
        objectives.create(name, encoder=models.create(**VIT), image_size=S, **settings)
