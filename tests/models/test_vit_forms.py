"""What a Vision Transformer may have beside the plain one: each form against its paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from vitjax import models
from vitjax.models.layers import MLP, add_to_subset, subset_group

TINY = {"variant": "mu/4", "depth": 2, "width": 16, "mlp": 24, "heads": 2, "positions": "sincos"}
IMAGES = jnp.asarray(np.random.default_rng(3).normal(size=(2, 8, 12, 3)), jnp.float32)
KEY = jax.random.key(7)


def vit(**settings):
    return models.create("vit", **(TINY | settings))


def run(encoder, variables, images=IMAGES, **arguments):
    apply = jax.jit(lambda variables, images: encoder.apply(variables, images, **arguments)[0])
    return apply(variables, images)


def replaced(variables, **params):
    return {"params": dict(variables["params"]) | params, "stats": {}}


def test_registers_stand_after_the_class_token_and_have_no_position(fill):
    """arXiv:2309.16588: they are tokens like any other, and nothing is read of them."""
    encoder = vit(pool="cls", registers=3)
    variables = fill(encoder, 8)
    assert encoder.prefix == 4
    features = run(encoder, variables)
    assert features.tokens.shape == (2, 1 + 3 + 6, 16)
    np.testing.assert_array_equal(features.pooled, features.tokens[:, 0])
    np.testing.assert_array_equal(features.patches.reshape(2, 6, 16), features.tokens[:, 4:])
    # In another order they give the same image: no position tells one from another.
    turned = replaced(variables, registers=variables["params"]["registers"][:, ::-1])
    np.testing.assert_allclose(run(encoder, turned).pooled, features.pooled, atol=1e-5)
    without = run(encoder, replaced(variables, registers=jnp.zeros((1, 3, 16))))
    assert np.abs(without.pooled - features.pooled).max() > 1e-3


def test_a_class_position_is_part_of_the_class_token(fill):
    """arXiv:2010.11929, eq. 1, with a row of positions for the class token."""
    encoder = vit(pool="cls", positions="learned", class_position=True)
    variables = fill(encoder, 8)
    cls, row = variables["params"]["cls"], variables["params"]["class_position"]
    folded = dict(variables["params"]) | {"cls": cls + row}
    del folded["class_position"]
    plain = vit(pool="cls", positions="learned")
    want = run(plain, {"params": folded, "stats": {}})
    np.testing.assert_allclose(run(encoder, variables).pooled, want.pooled, atol=1e-6)


def test_layer_scale_scales_each_branch(fill):
    encoder = vit(layer_scale=1e-5)
    variables = fill(encoder, 8)
    blocks = variables["params"]["blocks"]
    assert blocks["layer_scale1"].shape == blocks["layer_scale2"].shape == (2, 16)
    init = jax.jit(lambda key: encoder.init(key, 8))(KEY)["params"]["blocks"]
    np.testing.assert_allclose(init["layer_scale1"], 1e-5)
    # Folded into the last kernel of a branch, it is gone.
    out, down = blocks["attention"]["out"], blocks["mlp"]["down"]
    one, two = blocks["layer_scale1"], blocks["layer_scale2"]
    folded = {
        **{key: blocks[key] for key in ("norm1", "norm2")},
        "attention": dict(blocks["attention"])
        | {"out": {"kernel": out["kernel"] * one[:, None, None], "bias": out["bias"] * one}},
        "mlp": dict(blocks["mlp"])
        | {"down": {"kernel": down["kernel"] * two[:, None], "bias": down["bias"] * two}},
    }
    want = run(vit(), replaced(variables, blocks=folded))
    np.testing.assert_allclose(run(encoder, variables).tokens, want.tokens, atol=2e-5)


def test_swiglu_is_the_formula():
    """arXiv:2002.05202, eq. 6, with biases, in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 8))
    mlp = MLP(6, "swiglu")
    shapes = jax.eval_shape(mlp.init, KEY, jnp.zeros(x.shape))["params"]
    p = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
    gate, up = (x @ p[name]["kernel"] + p[name]["bias"] for name in ("gate", "up"))
    want = (gate / (1 + np.exp(-gate)) * up) @ p["down"]["kernel"] + p["down"]["bias"]
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), p)
    got = mlp.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_exact_and_tanh_gelu_differ_by_a_thousandth(fill):
    exact, tanh = vit(activation="gelu"), vit(activation="gelu_tanh")
    variables = fill(exact, 8)
    difference = np.abs(run(exact, variables).tokens - run(tanh, variables).tokens).max()
    assert 1e-5 < difference < 1e-2


def last_weights(encoder, variables):
    name = encoder.attends[-1][0]
    return encoder.attention(variables, IMAGES, (name,))[name]


def test_qk_norm_makes_the_weights_blind_to_the_scale_of_queries_and_keys(fill):
    """ViT-22B, arXiv:2302.05442, sec. 2.1: what a kernel is multiplied by is normalised away."""
    encoder = vit(qk_norm=True, biases="none", norm_eps=1e-12)
    variables = fill(encoder, 8)
    blocks = variables["params"]["blocks"]
    query = {"kernel": 3.0 * blocks["attention"]["query"]["kernel"]}
    attention = dict(blocks["attention"]) | {"query": query}
    louder = replaced(variables, blocks=dict(blocks) | {"attention": attention})
    np.testing.assert_allclose(
        run(encoder, louder).tokens, run(encoder, variables).tokens, atol=2e-5
    )
    weights = jax.jit(lambda variables: last_weights(encoder, variables))
    np.testing.assert_allclose(weights(louder), weights(variables), atol=2e-5)


BIASED = {"all": ["query", "key", "value"], "query_value": ["query", "value"], "none": []}


@pytest.mark.parametrize("biases", BIASED)
def test_a_bias_of_the_keys_changes_nothing(biases, fill):
    """It adds the same to all scores of a query: why DINOv3 leaves it out."""
    encoder = vit(biases=biases)
    variables = fill(encoder, 8)
    attention = variables["params"]["blocks"]["attention"]
    have = [name for name in ("query", "key", "value") if "bias" in attention[name]]
    assert have == BIASED[biases]
    if biases == "query_value":
        zero = {"bias": jnp.ones_like(attention["query"]["bias"])}
        blocks = dict(variables["params"]["blocks"])
        blocks["attention"] = dict(attention) | {"key": dict(attention["key"]) | zero}
        got = run(vit(), replaced(variables, blocks=blocks))
        np.testing.assert_allclose(got.tokens, run(encoder, variables).tokens, atol=2e-5)


def test_rotary_positions_are_seen_and_shift_with_the_grid(fill):
    encoder = vit(positions="rotary", pool="cls")
    variables = fill(encoder, 8)
    assert "position_embedding" not in variables["params"]
    flipped = run(encoder, variables, IMAGES.reshape(2, 2, 4, 12, 3)[:, ::-1].reshape(2, 8, 12, 3))
    assert np.abs(flipped.pooled - run(encoder, variables).pooled).max() > 1e-3
    weights = jax.jit(lambda variables: last_weights(encoder, variables))(variables)
    assert weights.shape == (2, 2, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)


def test_untied_norms_are_of_the_prefix_and_of_small_images_in_training(fill):
    """DINOv3, arXiv:2508.10104, sec. 3.2: one norm each for class tokens of whole images, class
    tokens of local crops, and patches."""
    encoder = vit(pool="cls", registers=1, prefix_norm=True, local_norm_below=12)
    variables = fill(encoder, 8)
    p = variables["params"]
    tied = {k: v for k, v in p.items() if k not in ("prefix_norm", "local_prefix_norm")}
    plain = vit(pool="cls", registers=1)
    of_patches = run(plain, {"params": tied, "stats": {}})
    of_prefix = run(plain, {"params": tied | {"norm": p["prefix_norm"]}, "stats": {}})
    of_local = run(plain, {"params": tied | {"norm": p["local_prefix_norm"]}, "stats": {}})
    got, local = run(encoder, variables), run(encoder, variables, train=True)
    np.testing.assert_allclose(got.patches, of_patches.patches, atol=1e-6)
    np.testing.assert_allclose(got.tokens[:, :2], of_prefix.tokens[:, :2], atol=1e-6)
    np.testing.assert_allclose(local.tokens[:, :2], of_local.tokens[:, :2], atol=1e-6)
    np.testing.assert_allclose(local.patches, of_patches.patches, atol=1e-6)
    assert np.abs(of_prefix.pooled - of_local.pooled).max() > 1e-2


def test_class_token_and_mean_side_by_side(fill):
    both, cls = vit(pool="cls_gap"), vit(pool="cls")
    assert both.width == 32
    variables = fill(both, 8)
    got, want = run(both, variables), run(cls, variables)
    np.testing.assert_allclose(got.pooled[:, :16], want.pooled, atol=1e-6)
    np.testing.assert_allclose(got.pooled[:, 16:], want.patches.mean((1, 2)), atol=1e-6)


def test_a_branch_on_a_subset_keeps_the_mean_and_leaves_the_rest_alone():
    """DINOv2's stochastic depth, arXiv:2304.07193, sec. 5."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3, 2)), jnp.float32)
    rows = []

    def branch(part):
        rows.append(part.shape[0])
        return 0 * part + 1

    keys = jax.random.split(KEY, 50)
    added = np.stack([np.asarray(add_to_subset(branch, x, 0.4, key) - x)[:, 0, 0] for key in keys])
    assert set(rows) == {38}  # 19 of each 32
    kept = added > 0.5
    np.testing.assert_allclose(added[kept], 32 / 19, rtol=1e-5)
    np.testing.assert_array_equal(kept[:, :32].sum(1), 19)
    np.testing.assert_allclose(added[~kept], 0, atol=1e-6)
    assert abs(kept.mean(0) - 19 / 32).max() < 0.3  # every sample has its turn
    one = add_to_subset(lambda part: part, x[:1], 0.9, KEY)
    np.testing.assert_allclose(one, 2 * x[:1], rtol=1e-6)  # at least one of each group


@pytest.mark.parametrize("batch", [100, 36, 30, 50, 7, 33, 1023, 64])
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.4])
def test_a_subset_leaves_out_the_share_it_was_told_or_says_so(batch, rate):
    try:
        group, kept = subset_group(batch, rate)
    except ValueError as error:
        assert f"batch of {batch} with drop_path_form='subset'" in str(error)
        assert all(batch % n or n < 10 for n in range(1, 33))
        return
    assert batch % group == 0 and group <= 32
    assert abs(1 - kept / group - rate) <= 0.05


def test_a_subset_is_drawn_from_what_one_device_holds():
    with jax.set_mesh(jax.make_mesh((4, 2), ("replica", "data"), axis_types=(AxisType.Auto,) * 2)):
        assert subset_group(8 * 24, 0.4) == (24, 14)  # groups of 32 would lie on two devices
        assert subset_group(8 * 2, 0.4) == (16, 10)  # where that is too coarse, on several
    assert subset_group(8 * 24, 0.4) == (32, 19)


def test_the_subset_form_computes_less(fill):
    plain, subset = (
        vit(drop_path=0.5, drop_path_form=form, scan=False) for form in ("sample", "subset")
    )
    variables = fill(plain, 8)
    images = jnp.tile(IMAGES, (4, 1, 1, 1))

    def flops(encoder):
        def pooled(variables, images):
            return encoder.apply(variables, images, train=True, key=KEY)[0].pooled

        return jax.jit(pooled).lower(variables, images).cost_analysis()["flops"]

    # Half, and at this width of 16 the products that choose.
    assert flops(subset) < 0.7 * flops(plain)
    # Out of training there is no difference.
    np.testing.assert_array_equal(run(plain, variables).pooled, run(subset, variables).pooled)


def test_a_resnet_before_the_blocks(fill):
    """arXiv:2010.11929, sec. 3.1 "hybrid": the map of a ResNet, one token per place."""
    encoder = models.create("vit", variant="R26+S/32", width=16, depth=1, mlp=8, heads=2)
    assert encoder.stride == 32
    shapes = jax.eval_shape(lambda key: encoder.init(key, 64), KEY)
    assert shapes["params"]["embedding"]["kernel"].shape == (1, 1, 2048, 16)
    assert shapes["params"]["position_embedding"].shape == (2, 2, 16)
    features, _ = jax.eval_shape(encoder.apply, shapes, jnp.zeros((3, 64, 64, 3)))
    assert features.patches.shape == (3, 2, 2, 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"registers": -1}, "encoder.registers=-1: expected a whole number"),
        ({"class_position": True, "pool": "cls"}, "encoder.class_position needs learned positions"),
        ({"class_position": True, "positions": "learned"}, "needs a class token: .*'gap'"),
        ({"prefix_norm": True}, "encoder.prefix_norm needs a class token or registers"),
        ({"activation": "relu"}, "encoder.activation='relu' is unknown.*gelu, gelu_tanh, swiglu"),
        ({"biases": "some"}, "encoder.biases='some'.*all, query_value, none"),
        ({"resample": "cubc"}, "encoder.resample='cubc'.*did you mean 'cubic'"),
        ({"drop_path_form": "half"}, "encoder.drop_path_form='half'.*sample, subset"),
        ({"variant": "R51+B/16"}, "the stem in encoder.variant='R51'.*R26, R50"),
        ({"variant": "R26+B/16"}, r"the patch after R26\+B=16 is unknown; .*32"),
    ],
)
def test_forms_that_do_not_exist_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        vit(**settings)
    assert "\n" not in str(error.value)
