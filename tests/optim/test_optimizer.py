"""Optimizers against optax's own aliases and float64 NumPy; rules by name on a ViT-like tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax import optim
from vitjax.optim import optimizer
from vitjax.optim.rules import layer_rates, names

L, D, H, E, M, C = 3, 6, 2, 5, 8, 4  # layers, width, heads, width of a head, MLP, classes

SHAPES = {
    "encoder": {
        "embedding": {"kernel": (2, 2, 3, D), "bias": (D,)},
        "position_embedding": (7, D),
        "cls": (1, 1, D),
        "blocks": {
            "norm1": {"scale": (L, D), "bias": (L, D)},
            "attention": {
                "query": {"kernel": (L, D, H, E), "bias": (L, H, E)},
                "out": {"kernel": (L, H, E, D), "bias": (L, D)},
            },
            "mlp": {"up": {"kernel": (L, D, M), "bias": (L, M)}},
        },
        "norm": {"scale": (D,), "bias": (D,)},
        "attention_pool": {"probe": (1, 1, D), "mlp": {"up": {"kernel": (D, M)}}},
    },
    "head": {"logits": {"kernel": (D, C), "bias": (C,)}},
}
CONSTANT = {"name": "constant"}


def tree(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def flat(params):
    return dict(zip(names(params), map(np.asarray, jax.tree.leaves(params)), strict=True))


def run(tx, steps=3):
    """Parameters after some updates, flat."""
    params = tree(0)
    state = tx.init(params)
    update = relaxed(jax.jit(tx.update))
    for step in range(steps):
        updates, state = update(tree(step + 1), state, params)
        params = jax.tree.map(np.add, params, updates)
    return flat(params)


def relaxed(update):
    """optax's own Adam multiplies floats with integers: not under strict promotion."""

    def call(*args):
        with jax.numpy_dtype_promotion("standard"):
            return update(*args)

    return call


def one_update(tx, grads, params, state=None):
    """(updates, state) of a compiled update, under the strict promotion of all tests."""
    return jax.jit(tx.update)(grads, tx.init(params) if state is None else state, params)


@functools.cache
def run_named(name, lr=0.05, **settings):
    return run(optim.create(name, lr=lr, steps=9, schedule=CONSTANT, **settings)[0])


def kernels(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: getattr(path[-1], "key", "") == "kernel", params
    )


def assert_same(got, want, rtol=1e-5, atol=1e-6):
    assert got.keys() == want.keys()
    for name in got:
        np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=atol, err_msg=name)


def test_adamw_is_that_of_optax():
    want = run(optax.adamw(0.05, b2=0.95, weight_decay=0.3, mask=kernels))
    assert_same(run_named("adamw", b2=0.95, weight_decay=0.3), want)


def test_lion_is_that_of_optax():
    want = run(optax.lion(0.05, weight_decay=0.3, mask=kernels))
    assert_same(run_named("lion", weight_decay=0.3), want)


def unstacked(tree):
    """The layers of "blocks" as parameters of their own."""
    blocks = jax.tree.map(np.asarray, tree["encoder"]["blocks"])
    layers = {f"{i}": jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(L)}
    return tree | {"encoder": tree["encoder"] | {"blocks": layers}}


def run_unstacked(tx, steps=3):
    params = unstacked(tree(0))
    state = tx.init(params)
    update = relaxed(jax.jit(tx.update))
    for step in range(steps):
        updates, state = update(unstacked(tree(step + 1)), state, params)
        params = jax.tree.map(np.add, params, updates)
    layers = params["encoder"]["blocks"].values()
    params["encoder"]["blocks"] = jax.tree.map(lambda *x: np.stack(x), *layers)
    return flat(params)


def test_lamb_is_that_of_optax_with_a_norm_for_each_layer():
    want = run_unstacked(optax.lamb(0.05, weight_decay=0.3, mask=kernels))
    assert_same(run_named("lamb", weight_decay=0.3), want)


def test_lamb_scales_only_what_it_is_told_to():
    got = run_named("lamb", weight_decay=0.3, adapt="kernel$")
    adam = run_named("adamw", weight_decay=0.3, eps=1e-6)
    lamb = run_named("lamb", weight_decay=0.3)
    assert_same(got, {n: (lamb if n.endswith("kernel") else adam)[n] for n in got})


def test_adafactor_is_that_of_optax_with_a_scale_for_each_layer():
    settings = {"min_dim_size_to_factor": 5, "momentum": 0.9}
    want = run_unstacked(optax.adafactor(0.05, **settings))
    assert_same(run_named("adafactor", **settings), want)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_couples_l2_before_momentum_as_torch(nesterov):
    got = run_named("sgd", momentum=0.8, nesterov=nesterov, weight_decay=0.3)
    want, trace = {n: x.astype(np.float64) for n, x in flat(tree(0)).items()}, {}
    for step in range(3):
        for name, g in flat(tree(step + 1)).items():
            g = g + 0.3 * want[name] * name.endswith("kernel")
            trace[name] = g + 0.8 * trace.get(name, 0.0)
            want[name] = want[name] - 0.05 * (g + 0.8 * trace[name] if nesterov else trace[name])
    assert_same(got, want)


def newton_schulz(g):
    """Five steps of Muon's quintic, float64 (Jordan et al. 2024)."""
    x = g / np.linalg.norm(g)
    x = x.T if g.shape[0] > g.shape[1] else x
    for _ in range(5):
        s = x @ x.T
        x = 3.4445 * x + (-4.775 * s + 2.0315 * s @ s) @ x
    return x.T if g.shape[0] > g.shape[1] else x


def test_muon_orthogonalises_each_matrix_of_a_stack_and_leaves_the_rest_to_adam():
    got = run_named("muon", nesterov=False, weight_decay=0.3)
    adam = run_named("adamw", weight_decay=0.3)
    matrices = {
        "encoder/blocks/attention/query/kernel": (D, H * E),
        "encoder/blocks/attention/out/kernel": (H * E, D),
        "encoder/blocks/mlp/up/kernel": (D, M),
    }
    assert_same(
        {n: got[n] for n in got if n not in matrices},
        {n: adam[n] for n in adam if n not in matrices},
    )
    for name, shape in matrices.items():
        want = flat(tree(0))[name].astype(np.float64).reshape(L, *shape)
        mu = np.zeros_like(want)
        for step in range(3):
            mu = 0.95 * mu + 0.05 * flat(tree(step + 1))[name].reshape(want.shape)
            u = np.stack([newton_schulz(m) for m in mu]) * 0.2 * max(shape) ** 0.5
            want = want - 0.05 * (u + 0.3 * want)
        np.testing.assert_allclose(got[name].reshape(want.shape), want, atol=1e-4, err_msg=name)


def test_muon_takes_convolutions_but_neither_depthwise_nor_stem_nor_vectors():
    tx, _ = optim.create("muon", lr=0.1, steps=9)
    shapes = {"conv": (3, 3, 2, 4), "depthwise": (3, 3, 1, 4), "vector": (4,)}
    stage = {name: {"kernel": jnp.zeros(shape)} for name, shape in shapes.items()}
    state = tx.init({"encoder": {"stage_1": stage, "stem": stage}})
    muon = [name for name in names(state) if "/muon/" in name and "kernel" in name]
    assert len(muon) == 1 and muon[0].endswith("encoder/stage_1/conv/kernel")


def decay_of(steps=1, **settings):
    """What one step with zero gradients takes from parameters of one, as a share of lr."""
    tx, _ = optim.create("adamw", lr=0.5, steps=9, schedule=CONSTANT, **settings)
    ones = jax.tree.map(np.ones_like, tree(0))
    updates, _ = one_update(tx, jax.tree.map(np.zeros_like, ones), ones)
    return {n: np.unique(-x / 0.5).tolist() for n, x in flat(updates).items()}


def test_kernels_decay_and_nothing_else():
    got = decay_of(weight_decay=0.25)
    assert got == {n: [0.25] if n.endswith("kernel") else [0.0] for n in got}


def test_the_first_matching_decay_rule_wins():
    rules = [["^head/", 2.0], [r"(kernel|probe)$", 1.0]]
    got = decay_of(weight_decay=0.25, decay=rules)
    for name, value in got.items():
        inside = 0.25 if name.endswith(("kernel", "probe")) else 0.0
        assert value == [0.5 if name.startswith("head/") else inside], name


def rates_of(lr_multipliers=(), layer_decay=None):
    """The factor on each parameter's rate: sgd on gradients of one."""
    tx, _ = optim.create(
        "sgd",
        lr=1.0,
        steps=9,
        schedule=CONSTANT,
        lr_multipliers=lr_multipliers,
        layer_decay=layer_decay,
    )
    ones = jax.tree.map(np.ones_like, tree(0))
    return {n: -x for n, x in flat(one_update(tx, ones, ones)[0]).items()}


def test_layer_decay_on_stacked_blocks():
    for name, rate in rates_of(layer_decay=0.5).items():
        if "/blocks/" in name:
            per_layer = rate.reshape(L, -1)
            assert per_layer.tolist() == [[x] * per_layer.shape[1] for x in (0.125, 0.25, 0.5)]
        elif name.startswith(("encoder/embedding", "encoder/pos", "encoder/cls")):
            assert (rate == 0.0625).all(), name
        else:
            assert (rate == 1.0).all(), name


def test_layer_decay_multiplies_rules_and_scales_decay_too():
    rules = [("blocks/mlp/up/kernel$", 3.0), ("head", 10.0)]
    got = rates_of(lr_multipliers=rules, layer_decay=0.5)
    assert (got["head/logits/bias"] == 10.0).all()
    assert got["encoder/blocks/mlp/up/kernel"][:, 0, 0].tolist() == [0.375, 0.75, 1.5]
    assert got["encoder/blocks/mlp/up/bias"][:, 0].tolist() == [0.125, 0.25, 0.5]
    decayed = decay_of(weight_decay=0.25, layer_decay=0.5)
    assert decayed["encoder/blocks/mlp/up/kernel"] == [0.03125, 0.0625, 0.125]


def test_layer_decay_counts_numbered_blocks_and_stages():
    leaf = np.zeros((2, 4))
    flat_blocks = {f"block_{i:02d}": {"kernel": leaf} for i in (0, 1, 10)}
    stages = {
        "stem": {"kernel": leaf},
        "stage_1": {"first": {"norm": {"scale": leaf}}, "blocks": {"conv": {"kernel": leaf}}},
        "stage_2": {"downsample": {"kernel": leaf}, "block_00": {"kernel": leaf}},
        "norm": {"scale": leaf},
    }
    got = layer_rates({"encoder": flat_blocks, "decoder": {"blocks": {"kernel": leaf}}}, 0.5)
    assert [got["encoder"][b]["kernel"] for b in flat_blocks] == [0.125, 0.25, 0.5]
    assert got["decoder"]["blocks"]["kernel"] == 1.0
    got = layer_rates({"encoder": stages}, 0.5)["encoder"]  # first, 2 stacked, block_00: L = 4
    assert got["stem"]["kernel"] == 0.5**5
    assert got["stage_1"]["first"]["norm"]["scale"] == 0.5**4
    assert got["stage_1"]["blocks"]["conv"]["kernel"].tolist() == [[0.5**3], [0.5**2]]
    assert got["stage_2"]["downsample"]["kernel"] == got["stage_2"]["block_00"]["kernel"] == 0.5
    assert got["norm"]["scale"] == 1.0


def test_layer_decay_of_a_hybrid_counts_its_resnet_as_the_first_layer():
    leaf = np.zeros((2, 4))
    tree = {
        "stem": {"stage_1": {"first": {"conv1": {"kernel": leaf}}, "blocks": {"kernel": leaf}}},
        "blocks": {"kernel": leaf},
        "prefix_norm": {"scale": leaf},
    }
    got = layer_rates({"encoder": tree}, 0.5)["encoder"]
    assert set(jax.tree.leaves(got["stem"])) == {0.125}
    assert got["blocks"]["kernel"].tolist() == [[0.25], [0.5]]
    assert got["prefix_norm"]["scale"] == 1.0


@pytest.mark.parametrize("name", sorted(optimizer.OPTIMIZERS))
def test_frozen_parameters_get_updates_of_exactly_zero_and_hold_no_moments(name):
    tx, _ = optim.create(
        name,
        lr=0.1,
        steps=9,
        schedule=CONSTANT,
        weight_decay=0.5,
        freeze=["^encoder/"],
        clip_norm=1.0,
    )
    params = tree(0)
    updates, state = one_update(tx, tree(1), params)
    for path, update in flat(updates).items():
        assert (update == 0).all() == path.startswith("encoder/"), path
    assert not any("encoder/" in path for path in names(state))
    assert any("head/logits/kernel" in path for path in names(state))


def test_frozen_gradients_have_no_part_in_the_clipped_norm():
    settings = {"lr": 1.0, "steps": 9, "schedule": CONSTANT, "momentum": 0.0}
    tx, _ = optim.create("sgd", clip_norm=0.5, freeze=["^encoder/"], **settings)
    params = tree(0)
    updates, _ = one_update(tx, tree(1), params)
    norm = np.sqrt(sum((x**2).sum() for x in flat(updates).values()))
    np.testing.assert_allclose(norm, 0.5, rtol=1e-5)


def test_clipping_comes_before_the_moments():
    want = optax.chain(optax.clip_by_global_norm(0.3), optax.adamw(0.05, weight_decay=0.0))
    assert_same(run_named("adamw", clip_norm=0.3), run(want))


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "sgd", "muon"])
def test_moments_carry_the_paths_of_their_parameters_and_their_dtype(name):
    tx, _ = optim.create(name, lr=0.1, steps=9, schedule=CONSTANT, mu_dtype="bfloat16")
    params = tree(0)
    updates, state = one_update(tx, tree(1), params)
    found = dict(zip(names(state), jax.tree.leaves(state), strict=True))
    for path, leaf in flat(params).items():
        moments = [x for name, x in found.items() if name.endswith("/" + path)]
        assert moments, path
        assert all(x.shape == leaf.shape for x in moments)
        assert any(x.dtype == jnp.bfloat16 for x in moments)
    assert all(x.dtype == np.float32 for x in flat(updates).values())


def test_the_schedule_counts_updates_from_zero():
    schedule = {"name": "linear", "warmup_steps": 2}
    tx, rate = optim.create("sgd", lr=0.5, steps=6, schedule=schedule, momentum=0.0)
    params = {"kernel": jnp.zeros((2, 3))}
    state, ones = tx.init(params), {"kernel": jnp.ones((2, 3))}
    for step in range(7):
        updates, state = one_update(tx, ones, params, state)
        np.testing.assert_allclose(-updates["kernel"][0, 0], rate(step), rtol=1e-6)
    assert float(rate(0)) == 0.0 and float(rate(2)) == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": [("kernl$", 1.0)]}, r"optimizer\.decay has the rule 'kernl\$'"),
        ({"lr_multipliers": [("haed", 1.0)]}, r"optimizer\.lr_multipliers has the rule 'haed'"),
        ({"freeze": ["^encodr/"]}, r"optimizer\.freeze has the rule '\^encodr/'"),
        ({"freeze": [".*"]}, r"optimizer\.freeze .* freezes every parameter"),
        ({"decay": [("kernel(", 1.0)]}, r"optimizer\.decay is .*expected \(regular"),
        ({"lr_multipliers": ["head"]}, r"optimizer\.lr_multipliers is .*expected \(regular"),
        ({"weight_decay": -0.1}, r"optimizer\.weight_decay is -0\.1"),
        ({"layer_decay": 1.5}, r"optimizer\.layer_decay is 1\.5"),
        ({"clip_norm": 0.0}, r"optimizer\.clip_norm is 0\.0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        optim.create("adamw", lr=0.1, steps=9, **settings)[0].init(tree(0))
    assert "\n" not in str(error.value)


def test_layer_decay_without_blocks_is_an_error():
    tx, _ = optim.create("adamw", lr=0.1, steps=9, layer_decay=0.5)
    with pytest.raises(ValueError, match=r"optimizer\.layer_decay is 0\.5, but no parameter"):
        tx.init({"encoder": {"stem": {"kernel": jnp.zeros((2, 3))}}})


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(ValueError, match=r"name='adam' is unknown; did you mean 'adamw'"):
        optim.create("adam", lr=0.1, steps=9)


@pytest.mark.parametrize("name", sorted(optimizer.OPTIMIZERS))
def test_a_misspelt_setting_is_a_type_error(name):
    with pytest.raises(TypeError, match="beta_1"):
        optim.create(name, lr=0.1, steps=9, beta_1=0.9)


def constant(grads, params, steps, **settings):
    """The parameters after each of a few updates with the same gradients."""
    tx, _ = optim.create("sgd", lr=0.5, steps=4, schedule=CONSTANT, momentum=0.0, **settings)
    state, seen = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(flat(params))
    return seen


def test_weight_decay_follows_half_a_cosine():
    params, zeros = tree(0), jax.tree.map(np.zeros_like, tree(0))
    seen = constant(zeros, params, 5, weight_decay=0.1, weight_decay_final=0.5)
    kernel, name = flat(params)["head/logits/kernel"].astype(np.float64), "head/logits/kernel"
    for step, got in enumerate(seen):
        decay = 0.5 + (0.1 - 0.5) * (1 + np.cos(np.pi * min(step / 4, 1))) / 2
        kernel = kernel - 0.5 * decay * kernel
        np.testing.assert_allclose(got[name], kernel, rtol=1e-5)
        np.testing.assert_array_equal(got["encoder/cls"], flat(params)["encoder/cls"])


def test_late_parameters_stand_still_at_first_and_their_moments_do_not():
    params, grads = tree(0), tree(1)
    tx, _ = optim.create("adamw", lr=0.1, steps=9, schedule=CONSTANT, late=[("^head/", 2)])
    plain, _ = optim.create("adamw", lr=0.1, steps=9, schedule=CONSTANT)
    state, other = tx.init(params), plain.init(params)
    for step in range(3):
        late, state = tx.update(grads, state, params)
        want, other = plain.update(grads, other, params)
        late, want = flat(late), flat(want)
        np.testing.assert_array_equal(late["encoder/cls"], want["encoder/cls"])
        head = want["head/logits/bias"] if step >= 2 else np.zeros(C)
        np.testing.assert_array_equal(late["head/logits/bias"], head)


def test_each_part_is_clipped_by_its_own_norm():
    params, grads = tree(0), tree(1)
    grads["head"] = jax.tree.map(lambda g: 1e-3 * g, grads["head"])
    (got,) = constant(grads, params, 1, clip_norm=2.0, clip_each=True)
    encoder = np.sqrt(sum(np.sum(g.astype("f8") ** 2) for g in jax.tree.leaves(grads["encoder"])))
    assert encoder > 2
    for name, start in flat(params).items():
        share = 2.0 / encoder if name.startswith("encoder/") else 1.0
        want = start - 0.5 * share * flat(grads)[name]
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-7)
