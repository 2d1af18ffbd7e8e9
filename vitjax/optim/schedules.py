"""Learning-rate schedules: step -> rate, a float32 scalar in units of `lr`.

Each warms up linearly from 0 over `warmup_steps` (step 0 has rate 0 where there is a warm-up),
then follows its curve up to `steps`, and stays at its last value after that. They accept Python
integers and traced ones alike. `final` is a fraction of the peak `lr`.
"""

import jax.numpy as jnp

from vitjax.lookup import lookup


def _float(step):
    return jnp.asarray(step, jnp.float32)


def _warmup(step, warmup_steps):
    return jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0


def _progress(step, steps, warmup_steps):
    return jnp.clip((step - warmup_steps) / (steps - warmup_steps), 0.0, 1.0)


def constant(*, lr, steps, warmup_steps=0):
    """lr after the warm-up."""
    _check(lr, steps, warmup_steps)
    return lambda step: jnp.float32(lr) * _warmup(_float(step), warmup_steps)


def cosine(*, lr, steps, warmup_steps=0, final=0.0):
    """Half a cosine from lr down to final * lr (arXiv:1608.03983, eq. 5)."""
    _check(lr, steps, warmup_steps, final)

    def rate(step):
        step = _float(step)
        curve = 0.5 + 0.5 * jnp.cos(jnp.pi * _progress(step, steps, warmup_steps))
        return lr * _warmup(step, warmup_steps) * (final + (1.0 - final) * curve)

    return rate


def linear(*, lr, steps, warmup_steps=0, final=0.0):
    """A straight line from lr down to final * lr."""
    _check(lr, steps, warmup_steps, final)

    def rate(step):
        step = _float(step)
        curve = 1.0 - _progress(step, steps, warmup_steps)
        return lr * _warmup(step, warmup_steps) * (final + (1.0 - final) * curve)

    return rate


def rsqrt(*, lr, steps, warmup_steps=0, timescale=10_000, cooldown_steps=0, final=0.0):
    """lr * sqrt(timescale / (timescale + steps since the warm-up)) (arXiv:2106.04560, sec. 3.5).

    Over the last `cooldown_steps` it is drawn linearly to final * lr; a trunk can be trained on,
    and cooled down from anywhere.
    """
    _check(lr, steps, warmup_steps, final)
    if timescale <= 0:
        raise ValueError(
            f"optimizer.schedule.timescale is {timescale}; expected a positive number of steps"
        )
    if not 0 <= cooldown_steps <= steps - warmup_steps:
        raise ValueError(
            f"optimizer.schedule.cooldown_steps is {cooldown_steps}; expected 0 to "
            f"steps - warmup_steps = {steps - warmup_steps}"
        )
    if final and not cooldown_steps:
        raise ValueError(
            f"optimizer.schedule.final is {final}, which needs cooldown_steps > 0 beside it"
        )

    def rate(step):
        step = jnp.minimum(_float(step), steps)
        curve = jnp.sqrt(timescale / (timescale + jnp.maximum(step - warmup_steps, 0.0)))
        left = jnp.minimum(1.0, (steps - step) / cooldown_steps) if cooldown_steps else 1.0
        return lr * _warmup(step, warmup_steps) * (final * (1.0 - left) + curve * left)

    return rate


def between(start, end, steps):
    """Half a cosine from start at step 0 to end at the last of `steps`, without a warm-up: step ->
    float32. For what is not a rate, such as decay (arXiv:2104.14294, sec. 3.2)."""

    def value(step):
        curve = 0.5 + 0.5 * jnp.cos(jnp.pi * _progress(_float(step), steps, 0))
        return end + (start - end) * curve

    return value


SCHEDULES = {"constant": constant, "cosine": cosine, "linear": linear, "rsqrt": rsqrt}


def create(name, *, lr, steps, warmup_steps=0, **settings):
    """The schedule of that name: a function step -> rate.

    lr: the peak. steps: length of the run. settings: the keyword arguments of that schedule.
    """
    schedule = lookup(SCHEDULES, name, "optimizer.schedule.name")
    return schedule(lr=lr, steps=steps, warmup_steps=warmup_steps, **settings)


def _check(lr, steps, warmup_steps, final=0.0):
    if not lr >= 0:
        raise ValueError(f"optimizer.lr is {lr}; expected a rate >= 0")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"optimizer.schedule.warmup_steps is {warmup_steps}; "
            f"expected 0 <= warmup_steps < steps = {steps}"
        )
    if not 0 <= final <= 1:
        raise ValueError(f"optimizer.schedule.final is {final}; expected a fraction of lr in 0..1")
