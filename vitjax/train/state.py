"""What a run is, at a step: everything that a checkpoint holds of the model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class State(NamedTuple):
    """step: int32, updates done. params, opt: pytrees. extra: what else the objective keeps."""

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
    """The state at step 0, a function of the seed; jit it with out_shardings: born sharded."""
    params, extra = objective.init(stream(seed, "init"))
    return State(jnp.zeros((), jnp.int32), params, tx.init(params), extra)
