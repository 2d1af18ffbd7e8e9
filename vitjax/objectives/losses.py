"""Classification losses for soft targets, written for the global batch.

B batch, C classes. Logits and targets are [B, C]; the arithmetic is float32 whatever the dtype of
the logits.
"""

import jax
import jax.numpy as jnp


def smooth(labels, amount: float):
    """Label smoothing (arXiv:1512.00567, sec. 7): (1 - amount) * labels + amount / C."""
    return (1.0 - amount) * labels + amount / labels.shape[-1]


def softmax_cross_entropy(logits, targets):
    """mean_b - sum_c t_bc log softmax(z_b)_c. Rows of targets sum to 1."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.mean(jnp.sum(targets.astype(jnp.float32) * log_p, axis=-1))


def sigmoid_cross_entropy(logits, targets):
    """mean_b - sum_c [t_bc log s(z_bc) + (1 - t_bc) log s(-z_bc)], s the logistic function.

    One yes-or-no question per class, summed over the classes as in arXiv:2006.07159. Start
    the bias of the head near -ln C, or the first loss is C ln 2.
    """
    logits, targets = logits.astype(jnp.float32), targets.astype(jnp.float32)
    yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.mean(jnp.sum(targets * yes + (1.0 - targets) * no, axis=-1))


def positive_cross_entropy(logits, targets):
    """Sigmoid cross-entropy on [t > 0], mean over B and C: the BCE of DeiT III (arXiv:2204.07118).

    Every class present in a mixed image counts as wholly there, however small its share.
    """
    present = (targets > 0).astype(jnp.float32)
    return sigmoid_cross_entropy(logits, present) / logits.shape[-1]


LOSSES = {
    "softmax": softmax_cross_entropy,
    "sigmoid": sigmoid_cross_entropy,
    "positive": positive_cross_entropy,
}
