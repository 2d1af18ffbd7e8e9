"""What a self-supervised run says of itself beside its loss, without labels, and when to worry.

n rows, K prototypes, D width.
"""

import math

import jax
import jax.numpy as jnp

from vitjax.objectives.self_supervised import nearest_distances, unit
from vitjax.ops.eigenvalues import eigenvalues

# A healthy run is far from all of these; one that has collapsed is beyond one of them.
FLAT = 0.98  # entropy of the targets as a share of ln K
FEW = 2.0  # prototypes in use
NEAR = 0.02  # distance to the nearest neighbour on the unit sphere


def of_targets(targets, cross_entropy) -> dict:
    """targets: [n, K], rows sum to 1. cross_entropy: mean of it between target and student.

    "teacher_entropy": mean over rows, 0 where one-hot, ln K where flat. "teacher_kl": of target and
    student. "prototypes_used": exponential of the entropy of the mean target, 1 .. K.
    """
    entropy = jnp.mean(_entropy(targets))
    return {
        "teacher_entropy": entropy,
        "teacher_kl": cross_entropy - entropy,
        "prototypes_used": jnp.exp(_entropy(targets.mean(axis=0))),
    }


def of_features(step, every: int, pooled, patches) -> dict:
    """pooled: [n, D], a row per image, n > 1; patches: [n, h, w, D'] of the same images.

    Every `every` steps, not a number at others: "rankme" (arXiv:2210.02885, at most n and D),
    "nearest_neighbour" (mean distance of unit vectors to the nearest; 0 is collapse),
    "class_patch_cosine" (rises as dense features degrade, arXiv:2508.10104; where D' is D).
    """
    pooled, patches = (jax.lax.stop_gradient(x).astype(jnp.float32) for x in (pooled, patches))

    def look():
        numbers = {
            "rankme": rankme(pooled),
            "nearest_neighbour": jnp.mean(nearest_distances(unit(pooled))),
        }
        if pooled.shape[-1] == patches.shape[-1]:
            cosines = jnp.einsum("nd,nhwd->nhw", unit(pooled), unit(patches))
            numbers["class_patch_cosine"] = jnp.mean(cosines)
        return numbers

    def skip():
        return jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), jax.eval_shape(look))

    with jax.named_scope(f"every_{every}_steps"):  # which plan/program.py reads
        return jax.lax.cond(jnp.asarray(step) % every == 0, look, skip)


def rankme(rows):
    """As ops.statistics.rankme, in float32 and on the accelerator: rows [n, D] -> a scalar."""
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    values = jax.lax.platform_dependent(gram, tpu=eigenvalues, default=jnp.linalg.eigvalsh)
    singular = jnp.sqrt(jnp.maximum(values, 0.0))
    p = singular / jnp.maximum(singular.sum(), 1e-30) + 1e-7
    return jnp.exp(-jnp.sum(p * jnp.log(p)))


def _entropy(p):
    """- sum_k p_k ln p_k over the last axis; 0 ln 0 is 0."""
    return -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)


def collapse(metrics: dict, prototypes: int) -> str:
    """What the monitors of `of_targets` and `of_features` say is wrong, on one line, or ""."""

    def reads(name):
        return metrics[name] if metrics.get(name) is not None else math.nan

    near, used, entropy = map(reads, ("nearest_neighbour", "prototypes_used", "teacher_entropy"))
    if near < NEAR:
        return (
            f"collapse: features of different images are {near:.3g} apart on the unit sphere; "
            "raise objective.koleo, lower optimizer.lr, or lower objective.momentum"
        )
    if used < FEW:
        return (
            f"collapse: {used:.3g} of {prototypes} prototypes are in use; set objective.targets to "
            "'sinkhorn', or raise objective.teacher_temperature"
        )
    if entropy > FLAT * math.log(prototypes):
        return (
            f"collapse: targets are flat (entropy {entropy:.3g}, ln K = {math.log(prototypes):.3g})"
            "; lower objective.teacher_temperature, or use fewer objective.prototypes"
        )
    return ""


def first_loss(prototypes: int, spread: float, temperature: float, teacher: float | None) -> float:
    """Cross-entropy of the first step where teacher and student have the same K logits, normal with
    deviation `spread` (unit vectors of b numbers and unit prototypes: b ** -0.5).

    Of flat targets, as balanced ones are: ln K + spread^2 / (2 temperature^2). Of sharp ones,
    softmax(logits / teacher): less the mean logit under the target over `temperature`, which is
    spread^2 / teacher until the target freezes on the largest of K (the random energy model:
    Derrida 1981, sec. IV), whose mean is that of Gumbel's law.
    """
    flat = math.log(prototypes) + spread**2 / (2 * temperature**2)
    if teacher is None:
        return flat
    root = math.sqrt(2 * math.log(prototypes))
    largest = root - (math.log(math.log(prototypes)) + math.log(4 * math.pi) - 1.154) / (2 * root)
    seen = spread * min(spread / teacher, largest)
    return flat - seen / temperature
