"""The DINOv2 objective: what it starts at, what it is made of, and that no mesh changes it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import models, objectives
from vitjax.objectives import monitors, presets
from vitjax.objectives.assignment import Centre
from vitjax.sharding import mesh as mesh_lib
from vitjax.sharding import rules

B, S, K, b = 16, 12, 1024, 256  # B is no number of devices: see the arrays of a mesh
VIT = {"name": "vit", "variant": "Ti/4", "width": 16, "depth": 1, "mlp": 24, "heads": 2}
VIT |= {"pool": "cls", "mask_token": True, "scan": False}
SETTINGS = {
    **{"prototypes": K, "targets": "centering", "momentum": 0.9, "momentum_steps": 10},
    **{"teacher_temperature": 0.05, "teacher_temperature_start": 0.05},
    **{"temperature_warmup_steps": 1, "head_hidden": 24, "head_bottleneck": b},
    **{"mask_least": 1, "monitor_steps": 2},
}


def create(encoder=VIT, image_size=S, **settings):
    encoder = models.create(**encoder)
    settings = SETTINGS | settings
    return objectives.create("dinov2", encoder=encoder, image_size=image_size, **settings)


def views_of(size=S, local=4, crops=3, seed=0):
    rng = np.random.default_rng(seed)
    views = {"global": rng.normal(size=(B, 2, size, size, 3)).astype(np.float32)}
    if crops:
        views["local"] = rng.normal(size=(B, crops, local, local, 3)).astype(np.float32)
    return jax.tree.map(jnp.asarray, views)


@pytest.fixture(scope="module")
def balanced():
    """(objective with Sinkhorn's targets, its start, its jitted loss with gradients): compiled
    once."""
    objective = create(targets="sinkhorn")
    start = jax.jit(objective.init)(jax.random.key(0))
    return objective, start, jax.jit(jax.value_and_grad(objective.loss, has_aux=True))


def test_the_first_losses_are_the_analytic_ones(balanced):
    """DINO = ln K + 1 / (2 b tau^2) within 0.02 (published: 7.127 at K 1024, b 256), iBOT half."""
    objective, (params, extra), loss = balanced
    # A fresh encoder of real size makes much the same of all: here the images are.
    views = {name: jnp.broadcast_to(x[:1, :1, :1, :1], x.shape) for name, x in views_of().items()}
    (_, (metrics, _)), _ = loss(params, extra, views, jax.random.key(1), jnp.int32(0))
    want = np.log(K) + 1 / (2 * b * 0.1**2)
    assert abs(want - 7.127) < 1e-3
    np.testing.assert_allclose(metrics["dino"], want, atol=0.02)
    np.testing.assert_allclose(metrics["ibot"], want / 2, rtol=0.02)
    assert "dino near 7.13, ibot near 3.56" in objective.expect


@pytest.mark.parametrize(("teacher", "spread"), [(None, 0.0625), (0.04, 0.0625), (0.02, 0.125)])
def test_the_first_loss_is_that_of_normal_logits(teacher, spread):
    prototypes = 16_384
    s = spread * np.random.default_rng(0).normal(size=(40, prototypes))
    z = s / teacher if teacher else np.zeros_like(s)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    log_q = s / 0.1 - np.log(np.exp(s / 0.1).sum(axis=1, keepdims=True))
    want = -np.mean(np.sum(p * log_q, axis=1))
    got = monitors.first_loss(prototypes, spread, 0.1, teacher)
    np.testing.assert_allclose(got, want, atol=0.03 if teacher != 0.02 else 0.4)


def test_gradients_reach_all_that_is_learnt_and_the_teacher_follows(balanced):
    objective, (params, extra), loss = balanced
    args = (views_of(), jax.random.key(1), jnp.int32(0))
    (value, (metrics, new)), grads = loss(params, extra, *args)
    weighted = metrics["dino"] + metrics["ibot"] + 0.1 * metrics["koleo"]
    np.testing.assert_allclose(value, weighted, rtol=1e-5)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        # A key's bias adds the same to all scores of a query.
        silent = "key" in str(path) and "bias" in str(path)
        assert silent or np.abs(leaf).max() > 1e-8, path
    jax.tree.map(np.testing.assert_array_equal, new["ema"], extra["ema"])
    after = objective.after(jax.tree.map(lambda p: p + 1.0, params), new, jnp.int32(0))
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old + 0.1, atol=1e-6),
        objective.encoder_variables(params, after)["params"],
        params["encoder"],
    )


def test_momentum_and_monitors_follow_the_step(balanced):
    _, (params, extra), loss = balanced
    rows = [
        loss(params, extra, views_of(), jax.random.key(1), jnp.int32(step))[0][1][0]
        for step in (0, 1, 10)
    ]
    np.testing.assert_allclose([row["momentum"] for row in rows[::2]], [0.9, 1.0], atol=1e-6)
    assert np.isnan(rows[1]["rankme"]) and 1 <= rows[0]["rankme"] <= B
    assert 0 <= rows[0]["teacher_entropy"] <= np.log(K)
    assert 1 <= rows[0]["prototypes_used"] <= K + 1e-3
    assert rows[0]["teacher_kl"] > 0 and abs(rows[0]["class_patch_cosine"]) <= 1


def test_the_student_alone_sees_masks(balanced):
    _, (params, extra), loss = balanced
    other = dict(params)
    other["encoder"] = params["encoder"] | {"mask_token": 50 * params["encoder"]["mask_token"]}
    args = (extra, views_of(), jax.random.key(1), jnp.int32(0))
    (_, (one, _)), (_, (two, _)) = (loss(p, *args)[0] for p in (params, other))
    np.testing.assert_allclose(one["teacher_entropy"], two["teacher_entropy"], rtol=1e-6)
    np.testing.assert_allclose(one["rankme"], two["rankme"], rtol=1e-6)
    assert abs(one["ibot"] - two["ibot"]) > 1e-4


MESHES = {
    "all": {"replica": 2, "data": 2, "model": 2},
    "data": {"data": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh_name", MESHES)
def test_every_mesh_gives_the_loss_of_one_device_and_none_holds_all_prototypes(balanced, mesh_name):
    objective, (params, extra), loss = balanced
    args = (views_of(), jax.random.key(1), jnp.int32(0))
    (want, _), grads = loss(params, extra, *args)
    mesh = mesh_lib.make_mesh(**MESHES[mesh_name])
    with jax.set_mesh(mesh):
        places = rules.shardings((params, extra), mesh, min_size=0)
        params, extra = jax.device_put((params, extra), places)
        batch = jax.sharding.NamedSharding(mesh, mesh_lib.BATCH)
        args = (jax.device_put(args[0], batch), *args[1:])
        step = jax.jit(
            jax.value_and_grad(objective.loss, has_aux=True),
            out_shardings=((None, (None, places[1])), places[0]),
        )
        program = step.lower(params, extra, *args).compile()
        (got, _), sharded = program(params, extra, *args)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # The class token starts at zero, where its norm makes much of the last digits.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-2 * np.abs(y).max() + 1e-6),
        sharded,
        grads,
    )
    assert none_has(program, K)


def none_has(program, size):
    """Whether no array on a device has a dimension of that size."""
    arrays = re.findall(r"[fs]\d+\[([\d,]+)\]", program.as_text())
    return arrays and not any(str(size) in shape.split(",") for shape in arrays)


@pytest.mark.slow
def test_131072_prototypes_are_nowhere_whole():
    """Compiled, not run: each of 2 x 2 x 2 devices holds a quarter of them, and their logits of
    half of the samples."""
    many = 131_072
    objective = create(targets="sinkhorn", prototypes=many, head_bottleneck=64)
    start = jax.eval_shape(objective.init, jax.random.key(0))
    used = {}
    for name, sizes in {"one": {"data": 1}, "all": MESHES["all"]}.items():
        mesh = mesh_lib.make_mesh(**sizes, devices=jax.devices()[: 1 if name == "one" else 8])
        with jax.set_mesh(mesh):
            places = rules.shardings(start, mesh)
            batch = jax.sharding.NamedSharding(mesh, mesh_lib.BATCH)
            step = jax.jit(
                jax.value_and_grad(objective.loss, has_aux=True),
                out_shardings=((None, (None, places[1])), places[0]),
            )
            target = jax.tree.map(placed, start, places)
            views = jax.tree.map(lambda x, place=batch: placed(x, place), views_of())
            program = step.lower(*target, views, jax.random.key(1), 0).compile()
        memory = program.memory_analysis()
        used[name] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        assert none_has(program, many) == (name == "all")
    assert used["all"] < used["one"] / 5, used


def placed(x, place):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def test_micro_batches_give_the_loss_of_the_whole_where_the_mathematics_allows(balanced):
    """DINO with centering is a mean over images; KoLeo's neighbours, Sinkhorn's columns and the
    draw of the masks are those of a micro-batch."""
    objective = create(ibot=0.0, koleo=0.0)
    params, extra = balanced[1]
    extra = extra | {"centre": {"crops": Centre().start(K)}}
    loss, step = jax.jit(objective.loss), jnp.int32(1)
    want, (_, whole) = loss(params, extra, views_of(), jax.random.key(1), step)
    values, kept = [], extra
    for part in range(4):
        rows = jax.tree.map(lambda x, part=part: x[part::4], views_of())
        value, (_, kept) = loss(params, kept, rows, jax.random.key(1), step)
        values.append(value)
    np.testing.assert_allclose(np.mean(values), want, rtol=1e-5)
    moved = [objective.after(params, state, step)["centre"] for state in (whole, kept)]
    assert np.any(moved[0]["crops"]["mean"])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), *moved)


def test_gram_is_zero_towards_itself_and_its_anchor_is_taken_when_told(balanced):
    objective = create(gram=2.0, ibot=0.0, gram_start_steps=3, gram_every_steps=2, gram_copies=2)
    params, extra = balanced[1]
    extra = extra | {"gram": params["encoder"]}
    images = views_of(crops=0)["global"][:2]
    maps = objective.encoder.apply(
        {"params": params["encoder"], "stats": {}}, images.reshape(-1, S, S, 3)
    )[0].patches
    same, larger = (
        objective._gram_loss(extra, {"global": images}, maps),
        objective._gram_loss(
            extra, {"global": images, "gram": jnp.repeat(jnp.repeat(images, 2, 2), 2, 3)}, maps
        ),
    )
    np.testing.assert_allclose(same, 0.0, atol=1e-10)
    assert 1e-6 < larger < 1
    moved = extra | {"ema": jax.tree.map(lambda p: p + 0.5, extra["ema"])}
    first = np.asarray(extra["gram"]["cls"])
    taken = []
    for step in range(9):
        anchor = objective._gram_copy(moved, jnp.int32(step))["cls"]
        if np.any(np.asarray(anchor) != first):
            taken.append(step)
    assert taken == [3, 5]


@pytest.mark.slow
def test_a_frozen_teacher_is_matched_and_never_moved():
    teacher = VIT | {"width": 32, "depth": 2}
    objective = create(teacher=teacher, patch_prototypes=24)
    params, extra = jax.jit(objective.init)(jax.random.key(0))
    assert extra["teacher"]["encoder"]["cls"].shape[-1] == 32
    loss, (metrics, new) = jax.jit(objective.loss)(
        params, extra, views_of(), jax.random.key(1), jnp.int32(0)
    )
    assert np.isfinite(loss) and metrics["ibot"] > 0
    after = jax.jit(objective.after)(jax.tree.map(lambda p: p + 1.0, params), new, jnp.int32(0))
    jax.tree.map(np.testing.assert_array_equal, after["teacher"], extra["teacher"])
    np.testing.assert_allclose(
        after["ema"]["encoder"]["cls"], params["encoder"]["cls"] + 0.1, atol=1e-6
    )


def test_presets_follow_the_size_of_data_and_batch():
    small = presets.dinov2(steps=1000, batch_size=128, examples=10_000)
    assert small["prototypes"] == 1024 and small["targets"] == "centering"
    assert small["teacher_temperature"] == small["teacher_temperature_start"] == 0.02
    assert small["momentum"] == 0.99 and small["temperature_warmup_steps"] == 300
    large = presets.dinov2(steps=10**6, batch_size=2048, examples=1_281_167)
    assert large["prototypes"] == 65_536 and large["targets"] == "sinkhorn"
    assert (large["teacher_temperature"], large["momentum"]) == (0.07, 0.996)
    assert large["teacher_temperature_start"] == 0.04
    assert large["temperature_warmup_steps"] == 37_500
    edge = presets.dinov2(steps=10, batch_size=8, examples=20_000)
    assert edge["prototypes"] == 2048  # comparisons are strict
    given = {"name": "dinov2", "prototypes": 7}
    filled = objectives.preset(given, steps=10, batch_size=8, examples=20_000)
    assert "prototypes" not in filled and filled["momentum_steps"] == 10


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"nearest_neighbour": 0.001}, r"0\.001 apart[^\n]*objective\.koleo"),
        ({"prototypes_used": 1.2}, r"1\.2 of 48[^\n]*objective\.targets"),
        ({"teacher_entropy": np.log(48)}, r"flat[^\n]*objective\.teacher_temperature"),
        ({"nearest_neighbour": None, "prototypes_used": 30.0, "teacher_entropy": 2.0}, "^$"),
    ],
)
def test_an_alarm_says_what_collapsed_and_what_to_change(metrics, message):
    assert re.search(message, monitors.collapse(metrics, 48))


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("targets", {"targets": "sinkhron"}),
        ("momentum", {"momentum": 1.5}),
        ("teacher_temperature", {"teacher_temperature": 0.0}),
        ("mask_ratio", {"mask_ratio": (0.5, 0.1)}),
        ("koleo", {"koleo": -1.0}),
        ("last_layer", {"last_layer": "scale"}),
    ],
)
def test_bad_settings_are_one_line_that_names_the_key(key, settings):
    with pytest.raises(ValueError, match=rf"^objective\.{key}=[^\n]*(expected|valid)"):
        jax.eval_shape(create(**settings).init, jax.random.key(0))


@pytest.mark.slow
def test_packed_crops_give_the_loss_of_crops_apart(balanced):
    _, (params, extra), loss = balanced
    args = (params, extra, views_of(), jax.random.key(1), jnp.int32(1))
    (want, (metrics, _)), _ = loss(*args)
    got, (others, _) = jax.jit(create(targets="sinkhorn", packed=True).loss)(*args)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    for name in ("dino", "ibot", "koleo"):
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-4)
