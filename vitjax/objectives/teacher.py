"""A teacher that follows its student: how fast, and how sharp."""

import jax
import jax.numpy as jnp


def cosine(step, start: float, end: float, steps: int):
    """start at step 0, end from `steps` on, half a cosine between; float32 scalar."""
    share = jnp.clip(jnp.asarray(step, jnp.float32) / max(steps, 1), 0.0, 1.0)
    return end + 0.5 * (start - end) * (1.0 + jnp.cos(jnp.pi * share))


def ramp(step, start: float, end: float, steps: int):
    """start at step 0, end from `steps` on, a line between; float32 scalar."""
    share = jnp.clip(jnp.asarray(step, jnp.float32) / max(steps, 1), 0.0, 1.0)
    return start + (end - start) * share


def due(step, start: int, every: int, times: int):
    """Whether this step is `start`, or one of the times - 1 that follow it every so many steps;
    every 0: start alone. A bool scalar."""
    since = jnp.asarray(step) - start
    if not every:
        return since == 0
    return (since >= 0) & (since % every == 0) & (since < times * every)


def follow(teacher, student, momentum):
    """momentum * teacher + (1 - momentum) * student, leaf by leaf, in float32."""
    return jax.tree.map(
        lambda t, s: t + (1.0 - momentum) * (s.astype(jnp.float32) - t), teacher, student
    )


def copy(tree):
    """The same numbers in buffers of their own: one in two places could not be donated."""
    return jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), tree)
