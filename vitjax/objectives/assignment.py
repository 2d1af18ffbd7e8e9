"""Teacher targets: a probability for each prototype, from the logits of the teacher's head.

n samples, K prototypes. Everything is float32, over the global batch, and without a gradient.
"""

import jax
import jax.numpy as jnp


def sinkhorn(logits, temperature, steps: int = 3):
    """Balanced soft assignment of n samples to K prototypes (arXiv:2006.09882, sec. 3.1).

    logits: [n, K]; temperature: a number or a scalar. Returns float32 [n, K]: rows sum to 1, and
    after enough steps every prototype has n / K in all. In log space with one offset per prototype
    and one per sample, so logits of any size are fine and no more than the logits is held.
    """
    scores = jax.lax.stop_gradient(logits).astype(jnp.float32) / temperature
    n, K = scores.shape
    samples = jnp.zeros((n, 1), jnp.float32)
    for _ in range(steps):
        prototypes = jax.nn.logsumexp(scores - samples, axis=0, keepdims=True)  # [1, K]
        prototypes = prototypes + jnp.log(K / n)
        samples = jax.nn.logsumexp(scores - prototypes, axis=1, keepdims=True)
    return jnp.exp(scores - prototypes - samples)


def centred(logits, centre, temperature):
    """softmax((logits - centre) / temperature) (arXiv:2104.14294, eq. 1 and sec. 3.1).

    logits: [n, K]; centre: [K], of earlier batches. Returns float32 [n, K].
    """
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
    return jax.nn.softmax((logits - centre[None, :]) / temperature, axis=-1)


class Centre:
    """A running mean of the teacher's logits, moved once per update whatever the micro-batches.

    State: {"mean": [K], "sum": [K], "count": scalar}, float32. The mean is that of earlier updates;
    each micro-batch adds to the sum, and `moved` folds it in (arXiv:2104.14294, eq. 4).
    """

    def __init__(self, keep: float = 0.9):
        self.keep = keep

    def start(self, prototypes: int) -> dict:
        return {
            "mean": jnp.zeros(prototypes, jnp.float32),
            "sum": jnp.zeros(prototypes, jnp.float32),
            "count": jnp.zeros((), jnp.float32),
        }

    def seen(self, state: dict, logits) -> dict:
        """The state after one more micro-batch of logits [n, K]."""
        logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
        return state | {
            "sum": state["sum"] + logits.sum(axis=0),
            "count": state["count"] + logits.shape[0],
        }

    def moved(self, state: dict) -> dict:
        """The state after an update: keep * mean + (1 - keep) * the mean of what was seen."""
        latest = state["sum"] / jnp.maximum(state["count"], 1.0)
        mean = self.keep * state["mean"] + (1.0 - self.keep) * latest
        return {
            "mean": jnp.where(state["count"] > 0, mean, state["mean"]),
            "sum": jnp.zeros_like(state["sum"]),
            "count": jnp.zeros_like(state["count"]),
        }
