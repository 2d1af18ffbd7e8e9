"""Schedules: their values at chosen steps, and optax's where it has the same curve."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitjax.optim import schedules

STEPS = 40


def values(rate):
    return np.array([float(rate(step)) for step in range(STEPS + 3)])


@pytest.mark.parametrize("warmup_steps", [0, 7])
def test_cosine_is_that_of_optax(warmup_steps):
    got = schedules.create("cosine", lr=0.3, steps=STEPS, warmup_steps=warmup_steps, final=0.1)
    want = optax.warmup_cosine_decay_schedule(0.0, 0.3, warmup_steps, STEPS, 0.03)
    np.testing.assert_allclose(values(got), values(want), rtol=1e-5, atol=1e-7)


def test_constant_warms_up_and_stays():
    rate = schedules.create("constant", lr=0.5, steps=STEPS, warmup_steps=4)
    np.testing.assert_allclose(values(rate)[:6], [0, 0.125, 0.25, 0.375, 0.5, 0.5])
    assert (values(rate)[4:] == 0.5).all()


def test_linear_goes_down_to_its_final_fraction_and_stays():
    rate = schedules.create("linear", lr=2.0, steps=STEPS, warmup_steps=10, final=0.25)
    got = values(rate)
    np.testing.assert_allclose(got[[0, 5, 10, 25, 40, 42]], [0, 1, 2, 1.25, 0.5, 0.5], rtol=1e-6)


def test_rsqrt_decays_by_its_timescale_and_cools_down_linearly():
    rate = schedules.create(
        "rsqrt", lr=2.0, steps=STEPS, warmup_steps=4, timescale=9, cooldown_steps=10
    )
    got = values(rate)
    assert got[2] == 1.0 and got[4] == 2.0
    np.testing.assert_allclose(got[31 - 4], 2 * 3 / np.sqrt(9 + 23), rtol=1e-6)
    np.testing.assert_allclose(got[35], 2 * 3 / np.sqrt(9 + 31) * 0.5, rtol=1e-6)
    assert got[40] == 0.0 and got[42] == 0.0


def test_rsqrt_can_end_above_zero():
    rate = schedules.create("rsqrt", lr=2.0, steps=STEPS, cooldown_steps=10, final=0.05)
    np.testing.assert_allclose(values(rate)[40:], 0.1, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_traced_steps_give_the_same_as_integers(name):
    rate = schedules.create(name, lr=0.3, steps=STEPS, warmup_steps=3)
    traced = jax.jit(jax.vmap(rate))(jnp.arange(STEPS + 3))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, values(rate), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_a_run_of_one_step_has_the_full_rate(name):
    assert float(schedules.create(name, lr=0.3, steps=1)(0)) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("cosine", {"warmup_steps": 40}, "warmup_steps"),
        ("linear", {"warmup_steps": -1}, "warmup_steps"),
        ("cosine", {"final": 1.5}, "final"),
        ("rsqrt", {"timescale": 0}, "timescale"),
        ("rsqrt", {"warmup_steps": 20, "cooldown_steps": 21}, "cooldown_steps"),
        ("rsqrt", {"final": 0.1}, "final"),
        ("cosin", {}, "name='cosin' is unknown; did you mean 'cosine'"),
    ],
)
def test_bad_settings_are_named(name, settings, key):
    with pytest.raises(ValueError, match=rf"^optimizer\.schedule\.{key}"):
        schedules.create(name, lr=0.1, steps=STEPS, **settings)


def test_a_negative_rate_or_an_empty_run_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.lr is -1"):
        schedules.create("cosine", lr=-1, steps=STEPS)
    with pytest.raises(ValueError, match="steps is 0"):
        schedules.create("cosine", lr=1, steps=0)


def test_a_misspelt_setting_is_a_type_error():
    with pytest.raises(TypeError, match="finale"):
        schedules.create("cosine", lr=0.1, steps=STEPS, finale=0.1)
