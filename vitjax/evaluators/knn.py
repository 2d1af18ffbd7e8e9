"""Weighted k-nearest neighbours on frozen features, as in DINO (arXiv:2104.14294, appendix F).

Q queries of a chunk, N train examples, D width, K neighbours.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vitjax.evaluators.features import Frozen, cut, evaluation_mesh, fetch

QUERIES = 256  # per chunk: similarities of a chunk take 4 * 256 * N / devices bytes


def run(
    train: Frozen,
    validation: Frozen,
    *,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[str, float]:
    """{"top1_k10": ...} for each k: accuracy of the weighted vote of the k nearest train examples.

    Exact, float32. Cosine similarity s; weights softmax(s / temperature) over the largest k; ties
    go to the lower class, and to the earlier train example. A k above the train size is that size,
    and is named so. Under a mesh (jax.set_mesh) the train features are cut over all its devices:
    same neighbours, same order.
    """
    check(k=k, temperature=temperature)
    ks = tuple(sorted({min(each, len(train.label)) for each in k}))

    mesh = evaluation_mesh()
    lacking = -len(train.label) % mesh.size
    bank = np.pad(train.pooled, ((0, lacking), (0, 0)))
    label = np.pad(train.label, (0, lacking), constant_values=-1)
    size = min(QUERIES, len(validation.label))
    chunks = -(-len(validation.label) // size)
    queries = np.pad(validation.pooled, ((0, chunks * size - len(validation.label)), (0, 0)))

    predicted = predict(
        cut(bank, mesh, 0),
        cut(label, mesh, 0),
        queries.reshape(chunks, size, -1),
        ks=ks,
        temperature=temperature,
        mesh=mesh,
    )
    predicted = fetch(predicted).reshape(chunks * size, -1)[: len(validation.label)]
    hits = predicted == validation.label[:, None]
    return {f"top1_k{each}": float(share) for each, share in zip(ks, hits.mean(0), strict=True)}


def check(*, k, temperature):
    if not isinstance(k, Sequence) or not k or min(k) < 1:
        raise ValueError(f"evaluators.knn.k={k!r}: expected a list of counts of at least 1")
    if not temperature > 0:
        raise ValueError(f"evaluators.knn.temperature={temperature}: expected a number above 0")


@functools.partial(jax.jit, static_argnames=("ks", "temperature", "mesh"))
def predict(bank, label, queries, *, ks, temperature, mesh):
    """bank [N, D], label [N] (-1: padding), queries [chunks, Q, D] -> [chunks, Q, len(ks)]."""
    axes = mesh.axis_names

    def on_device(bank, label, queries):
        bank = unit(bank)

        def chunk(rows):  # [Q, D]
            similarity = jnp.einsum(
                "qd,nd->qn", unit(rows), bank, precision=jax.lax.Precision.HIGHEST
            )
            similarity = jnp.where(label[None, :] >= 0, similarity, -jnp.inf)
            # The K nearest of all are among the K nearest of each device. top_k keeps the earlier
            # of two equals, and devices are gathered in order, so ties fall as they would on one
            # device.
            near, at = jax.lax.top_k(similarity, min(ks[-1], bank.shape[0]))
            classes = label[at]
            near, classes = (
                jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in (near, classes)
            )
            near, at = jax.lax.top_k(near, ks[-1])
            return vote(near, jnp.take_along_axis(classes, at, axis=1), ks, temperature)

        return jax.lax.map(chunk, queries)

    return jax.shard_map(
        on_device, mesh=mesh, in_specs=(P(axes), P(axes), P()), out_specs=P(), check_vma=False
    )(bank, label, queries)


def vote(similarity, classes, ks, temperature):
    """similarity, classes [Q, K] of the neighbours, nearest first -> predicted class [Q, len(ks)].

    The score of a class is the summed weight of its neighbours. Each neighbour adds up the score
    of its own class, [Q, K, K] instead of [Q, classes]: no limit on the number of classes, and no
    scatter, whose order of summing may vary.
    """
    weights = jax.nn.softmax(similarity / temperature, axis=1)
    same = (classes[:, :, None] == classes[:, None, :]).astype(jnp.float32)
    predictions = []
    for k in ks:
        score = jnp.sum(same[:, :k, :k] * weights[:, None, :k], axis=2)
        best = score == score.max(axis=1, keepdims=True)
        predictions.append(
            jnp.min(jnp.where(best, classes[:, :k], jnp.iinfo(jnp.int32).max), axis=1)
        )
    return jnp.stack(predictions, axis=1)


def unit(rows):
    """Rows divided by their Euclidean norm, which counts as at least 1e-12."""
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
