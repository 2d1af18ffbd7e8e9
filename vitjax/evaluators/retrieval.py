"""Retrieval: every validation image queries the others by cosine similarity.

N images, Q queries of a chunk, D width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from vitjax.evaluators.features import Frozen, cut, evaluation_mesh, fetch
from vitjax.evaluators.knn import unit

QUERIES = 128  # per chunk and device: its similarities take 4 * 128 * N bytes
STEP = 2.0**-20  # images whose similarities to a query differ by less are about equally near


def run(train: Frozen | None, validation: Frozen) -> dict[str, float]:
    """{"map": mean average precision, "recall_at_1": share of queries whose nearest is relevant}.

    Relevant to a query are the other images of its class; a query without any is skipped. Average
    precision is that of all N - 1 others, ranked: the mean over the relevant of the precision at
    their rank, where equally near images share the last rank of theirs; for recall_at_1, too, they
    count by the share that is relevant. So collapsed features score what chance does. Similarities
    are float32, rounded to 2^-20, that its noise makes no ranks. Under a mesh (jax.set_mesh) the
    queries are cut over all its devices: same numbers. ValueError where no class has two images.
    """
    del train
    label = validation.label
    _, of, images = np.unique(label, return_inverse=True, return_counts=True)
    asking = np.flatnonzero(images[of] > 1)
    if not len(asking):
        raise ValueError(
            f"evaluators.retrieval: no class has two of the {len(label)} validation images; "
            "use a larger validation split"
        )
    mesh = evaluation_mesh()
    chunks = -(-len(asking) // (mesh.size * QUERIES)) * mesh.size
    size = -(-len(asking) // chunks)
    padded = np.resize(asking, chunks * size)  # some ask twice, to fill the last device
    precision, first = fetch(
        rank(
            cut(padded.reshape(chunks, size).astype(np.int32), mesh, 0),
            validation.pooled,
            label,
            mesh=mesh,
        )
    )
    return {
        "map": float(np.mean(precision.reshape(-1)[: len(asking)], dtype=np.float64)),
        "recall_at_1": float(np.mean(first.reshape(-1)[: len(asking)], dtype=np.float64)),
    }


@functools.partial(jax.jit, static_argnames="mesh")
def rank(queries, pooled, label, *, mesh):
    """queries [chunks, Q] of rows of pooled [N, D], label [N] -> average precision and share of
    relevant images among the nearest, each [chunks, Q]."""

    def on_device(queries, pooled, label):
        rows = unit(pooled)

        def chunk(query):  # [Q]
            similarity = jnp.einsum(
                "qd,nd->qn", rows[query], rows, precision=jax.lax.Precision.HIGHEST
            )
            similarity = jnp.round(similarity / STEP) * STEP
            itself = jnp.arange(len(rows))[None, :] == query[:, None]
            relevant = (label[query][:, None] == label[None, :]) & ~itself
            return precisions(jnp.where(itself, -jnp.inf, similarity), relevant)

        return jax.lax.map(chunk, queries)

    cut_over = P(mesh.axis_names)
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(cut_over, P(), P()),
        out_specs=cut_over,
        check_vma=False,
    )(queries, pooled, label)


def precisions(similarity, relevant):
    """similarity, relevant [Q, N] -> average precision, precision at the first rank, each [Q]."""
    distance, relevant = jax.lax.sort((-similarity, relevant.astype(jnp.int32)), num_keys=1)
    ranks = jnp.arange(1, distance.shape[1] + 1, dtype=jnp.int32)
    ends = jnp.pad(distance[:, 1:] != distance[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    # Of equally near images the last rank: the next one that ends a run.
    last = jnp.where(ends, ranks[None, :], distance.shape[1])
    last = jax.lax.cummin(last, axis=1, reverse=True)
    hits = jnp.take_along_axis(jnp.cumsum(relevant, axis=1), last - 1, axis=1)
    precision = hits.astype(jnp.float32) / last.astype(jnp.float32)
    mean = jnp.sum(precision * relevant.astype(jnp.float32), axis=1) / hits[:, -1].astype(
        jnp.float32
    )
    return mean, precision[:, 0]
