"""Losses without labels, written for the global batch, in float32.

B images, G global crops and V crops in all (the global ones first), K prototypes, D width, N
patches, P pixels of a patch. Teacher targets have no gradient (`assignment`).
"""

import jax
import jax.numpy as jnp
import numpy as np


def dino(student, targets, temperature: float = 0.1, local_weight: float = 1.0):
    """Cross-entropy between crops of one image (arXiv:2104.14294, eq. 2 and 3).

    student: logits [B, V, K]. targets: [B, G, K], rows sum to 1, of the first G crops. For each
    pair of a target and another crop: mean_b - sum_k P_k log softmax(s / temperature)_k; the mean
    over all pairs, those with a local crop weighted by local_weight (in the sum, not in the count).
    """
    G, V = targets.shape[1], student.shape[1]
    log_p = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    pairs = -jnp.einsum("bgk,bvk->gv", targets, log_p) / student.shape[0]
    weights = np.where(np.arange(V) < G, 1.0, local_weight) * (
        np.arange(G)[:, None] != np.arange(V)
    )
    weights = jnp.asarray(weights, jnp.float32)
    return jnp.sum(pairs * weights) / (G * (V - 1))


def ibot(student, targets, weights, temperature: float = 0.1):
    """Cross-entropy at masked patches (arXiv:2111.07832, eq. 2), as DINOv2 weighs it.

    student, targets: [n, K] of the masked patches of all crops. weights: [n], 1 / (crops * masked
    patches of the crop it is in): so a mean over all crops, the unmasked ones counting as 0.
    """
    log_p = jax.nn.log_softmax(student.astype(jnp.float32) / temperature, axis=-1)
    # As a product of matrices (einsum "nk,nk->n") XLA adds up a part of the shards only where K is
    # cut over the mesh (jax 0.10.2, CPU; test_dinov2 holds the case).
    return -jnp.sum(weights * jnp.sum(targets * log_p, axis=-1))


def nearest_distances(features):
    """Distance of each of n unit vectors [n, D] to its nearest other, [n] float32; n > 1.

    Neighbours are those of the largest product, found without a gradient. eps stands inside the
    root, so two equal vectors have a finite gradient.
    """
    n = features.shape[0]
    fixed = jax.lax.stop_gradient(features)
    products = jnp.einsum("id,jd->ij", fixed, fixed, precision=jax.lax.Precision.HIGHEST)
    nearest = jnp.argmax(jnp.where(jnp.eye(n, dtype=bool), -2.0, products), axis=1)
    return jnp.sqrt(jnp.sum(jnp.square(features - features[nearest]), axis=-1) + 1e-12)


def unit(features):
    """features [..., D] divided by their length, float32; the zero vector stays."""
    features = features.astype(jnp.float32)
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def koleo(features):
    """Kozachenko-Leonenko spread (arXiv:1806.03198, eq. 3): mean_i - ln min_j |x_i - x_j|, x the
    features [n, D] divided by their length. Over the global batch, n > 1."""
    return -jnp.mean(jnp.log(nearest_distances(unit(features)) + 1e-8))


def gram(student, teacher):
    """Mean squared difference of the cosines between patches (arXiv:2508.10104, eq. 2).

    student, teacher: [crops, N, D] (each its own D). Mean over crops and pairs of patches.
    """

    def cosines(patches):
        rows = unit(patches)
        return jnp.einsum("cnd,cmd->cnm", rows, rows)

    return jnp.mean(jnp.square(cosines(student) - cosines(jax.lax.stop_gradient(teacher))))


def contrastive(features, temperature: float = 0.1):
    """NT-Xent (arXiv:2002.05709, eq. 1): each view finds the other one of its image.

    features: [B, 2, D]. Among all 2 B - 1 other views of the global batch; mean over 2 B.
    """
    B = features.shape[0]
    rows = unit(features).swapaxes(0, 1).reshape(2 * B, -1)  # first views, then second ones
    scores = jnp.einsum("id,jd->ij", rows, rows) / temperature
    scores = jnp.where(jnp.eye(2 * B, dtype=bool), -jnp.inf, scores)
    partner = (jnp.arange(2 * B) + B) % (2 * B)
    log_p = jax.nn.log_softmax(scores, axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_p, partner[:, None], axis=1))


def normalised_patches(patches, eps: float = 1e-6):
    """Pixels of a patch [..., P] minus their mean, over their deviation (arXiv:2111.06377, sec. 3;
    its code takes the unbiased variance)."""
    patches = patches.astype(jnp.float32)
    mean = patches.mean(axis=-1, keepdims=True)
    variance = jnp.square(patches - mean).sum(axis=-1, keepdims=True) / (patches.shape[-1] - 1)
    return (patches - mean) * jax.lax.rsqrt(variance + eps)


def masked_pixels(predicted, target, mask):
    """Mean squared error of hidden patches (arXiv:2111.06377, sec. 3).

    predicted, target: [B, N, P]; mask: bool [B, N], True where it was hidden, somewhere at least.
    """
    error = jnp.square(predicted.astype(jnp.float32) - target.astype(jnp.float32)).mean(axis=-1)
    hidden = mask.astype(jnp.float32)
    return jnp.sum(error * hidden) / jnp.sum(hidden)
