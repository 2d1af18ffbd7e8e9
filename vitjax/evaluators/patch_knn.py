"""Segmentation by the nearest patches, as in CAPI (arXiv:2502.08769; its eval_segmentation.py).

Nothing is trained: a patch is given the label pixels of the most similar training patches.

M images, h x w patches of A pixels, D width; N patches of train, Q of a chunk, K neighbours.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from sklearn.preprocessing import StandardScaler

from vitjax.evaluators.features import Frozen, cut, evaluation_mesh, fetch
from vitjax.evaluators.knn import unit
from vitjax.evaluators.linear import split
from vitjax.evaluators.maps import label_patches, majority, sample_with
from vitjax.evaluators.overlap import (
    UNKNOWN,
    confusion,
    miou,
    pixel_accuracy,
    require_two_classes,
)

QUERIES = 256  # per chunk: similarities of a chunk take 4 * 256 * N / devices bytes


def run(
    train: Frozen,
    validation: Frozen,
    *,
    k: Sequence[int] = (1, 3, 10, 30),
    holdout: float = 0.1,
    seed: int = 0,
) -> dict[str, float]:
    """{"miou", "pixel_accuracy", "k", "cosine" (1.0, or 0.0 for Euclidean distance)}.

    Patches are standardised by train; those of train that are mostly unknown are dropped. Each
    pixel of a patch is given the most frequent label among the same pixel of its k nearest patches,
    the lowest class of equals. Unknown pixels have no vote (in CAPI they are a class); where all k
    are unknown, the pixel counts as wrong. k and similarity are chosen by mIoU on a share `holdout`
    of train's images (the first of equals), then all of train serves. Background is a class.

    Where the grid does not divide the image, labels are resized to it (maps.label_patches). Exact,
    float32. Under a mesh (jax.set_mesh) the training patches are cut over all its devices.
    """
    check(k=k, holdout=holdout, seed=seed)
    known, asked = (sample_with(each, ("mask",), "patch_knn") for each in (train, validation))
    if len(known.label) < 2:
        raise ValueError(
            f"evaluators.patch_knn: {len(known.label)} train image cannot both label patches and "
            "choose k; sample more images"
        )
    grid = known.patches.shape[1:3]
    patches, labels = known.patches, label_patches(known.mask, *grid)
    truth = label_patches(asked.mask, *grid)
    classes = 1 + max(int(each[each != UNKNOWN].max(initial=0)) for each in (labels, truth))
    require_two_classes(known.mask, "patch_knn")

    held, rest = split(len(patches), holdout, seed)
    choice = {}
    for cosine in (True, False):
        given = predict(patches[rest], labels[rest], patches[held], ks=sorted(k), cosine=cosine)
        for each, predicted in given.items():
            choice[each, cosine] = miou(confusion(labels[held], predicted, classes))
    order = sorted(choice, key=lambda pair: (pair[0], not pair[1]))
    best, cosine = max(order, key=lambda pair: np.nan_to_num(choice[pair], nan=-1.0))

    (predicted,) = predict(patches, labels, asked.patches, ks=[best], cosine=cosine).values()
    counts = confusion(truth, predicted, classes)
    return {
        "miou": miou(counts),
        "pixel_accuracy": pixel_accuracy(counts),
        "k": float(best),
        "cosine": float(cosine),
    }


def check(*, k, holdout, seed):
    if not isinstance(k, Sequence) or not k or min(k) < 1:
        raise ValueError(f"evaluators.patch_knn.k={k!r}: expected a list of counts of at least 1")
    if not 0.0 < holdout < 1.0:
        raise ValueError(
            f"evaluators.patch_knn.holdout={holdout}: expected a share between 0 and 1"
        )
    if seed < 0:
        raise ValueError(f"evaluators.patch_knn.seed={seed}: expected at least 0")


def predict(patches, labels, asked, *, ks, cosine) -> dict[int, np.ndarray]:
    """{k: uint8 [m, h, w, A]} for asked [m, h, w, D], from patches [M, h, w, D] and their labels.

    ks ascend; one above the number of patches that are not mostly unknown is that number.
    """
    width, pixels = patches.shape[-1], labels.shape[-1]
    scaler = StandardScaler().fit(patches.reshape(-1, width))
    keep = majority(labels).reshape(-1) != UNKNOWN
    if not keep.any():
        raise ValueError(
            "evaluators.patch_knn: every train patch is mostly unknown; sample more images"
        )
    bank = scaler.transform(patches.reshape(-1, width)[keep])
    bank_labels = labels.reshape(-1, pixels)[keep]
    queries = scaler.transform(asked.reshape(-1, width))
    ks = tuple(sorted({min(each, len(bank)) for each in ks}))

    mesh = evaluation_mesh()
    bank = np.pad(bank, ((0, -len(bank) % mesh.size), (0, 0)))
    index = np.where(np.arange(len(bank)) < len(bank_labels), np.arange(len(bank)), -1)
    size = min(QUERIES, len(queries))
    chunks = -(-len(queries) // size)
    padded = np.pad(queries, ((0, chunks * size - len(queries)), (0, 0)))
    given = search(
        cut(bank, mesh, 0),
        cut(index.astype(np.int32), mesh, 0),
        bank_labels,
        padded.reshape(chunks, size, width),
        ks=ks,
        cosine=cosine,
        mesh=mesh,
    )
    given = fetch(given).reshape(chunks * size, len(ks), pixels)[: len(queries)]
    return {each: given[:, i].reshape(*asked.shape[:3], pixels) for i, each in enumerate(ks)}


@functools.partial(jax.jit, static_argnames=("ks", "cosine", "mesh"))
def search(bank, index, labels, queries, *, ks, cosine, mesh):
    """bank [N, D], index [N] (-1: padding), labels [N, A], queries [chunks, Q, D].

    -> uint8 [chunks, Q, len(ks), A].
    """
    axes = mesh.axis_names

    def on_device(bank, index, labels, queries):
        bank = unit(bank) if cosine else bank
        # The nearest x of a query q has the largest 2 q.x - |x|^2: |q|^2 is the same for all.
        square = jnp.zeros(len(bank)) if cosine else jnp.sum(bank**2, axis=1)

        def chunk(rows):  # [Q, D]
            rows = unit(rows) if cosine else 2.0 * rows
            near = jnp.einsum("qd,nd->qn", rows, bank, precision=jax.lax.Precision.HIGHEST)
            near = jnp.where(index[None, :] >= 0, near - square[None, :], -jnp.inf)
            # The K nearest of all are among the K nearest of each device (see knn.predict).
            near, at = jax.lax.top_k(near, min(ks[-1], len(bank)))
            near, at = (
                jax.lax.all_gather(each, axes, axis=1, tiled=True) for each in (near, index[at])
            )
            _, first = jax.lax.top_k(near, ks[-1])
            around = labels[jnp.take_along_axis(at, first, axis=1)]
            return jnp.stack([mode(around[:, :k]) for k in ks], axis=1)

        return jax.lax.map(chunk, queries)

    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(P(axes), P(axes), P(), P()),
        out_specs=P(),
        check_vma=False,
    )(bank, index, labels, queries)


def mode(labels):
    """uint8 [Q, k, A] -> [Q, A]: the most frequent known label, the lowest of equals.

    UNKNOWN where no label is known. Each label is counted in turn, so the number of classes costs
    nothing.
    """

    def count(best, label):  # label [Q, A]
        votes = jnp.sum((labels == label[:, None, :]).astype(jnp.int32), axis=1)
        votes = jnp.where(label == UNKNOWN, 0, votes)
        most, winner = best
        better = (votes > most) | ((votes == most) & (label < winner))
        return (jnp.where(better, votes, most), jnp.where(better, label, winner)), None

    nobody = jnp.zeros_like(labels[:, 0], jnp.int32), jnp.full_like(labels[:, 0], UNKNOWN)
    (_, winner), _ = jax.lax.scan(count, nobody, jnp.moveaxis(labels, 1, 0))
    return winner
