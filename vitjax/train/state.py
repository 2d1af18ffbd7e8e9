"""What a run is, at a step: everything that a checkpoint holds of the model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class State(NamedTuple):
    """step: int32 scalar, updates done. params, opt, extra: pytrees (extra: what the objective keeps beside params)."""

    step: jax.Array
    params: Any
    opt: Any
    extra: Any


# Independent streams of one seed: parameters, what the network draws at a step, views of the
# images.
STREAMS = ("init", "noise", "views")


def stream(seed: int, name: str) -> jax.Array:
    """The key of a stream. Draws fold a step or an example into it: randomness is never state."""
    return jax.random.fold_in(jax.random.key(seed), STREAMS.index(name))


def init_state(objective, tx, seed: int) -> State:
    """The state at step 0: a pure function of the seed, to be jitted with out_shardings so that it is born sharded."""
    params, extra = objective.init(stream(seed, "init"))
    return State(jnp.zeros((), jnp.int32), params, tx.init(params), extra)
