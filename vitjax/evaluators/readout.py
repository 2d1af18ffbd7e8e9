"""One classifier of frozen features, shared by what asks how its answers change with the images.

N examples, D width, C classes.
"""

from collections.abc import Callable

import numpy as np
import scipy.linalg

from vitjax.evaluators import knn
from vitjax.evaluators.features import Frozen, Sample, cut, evaluation_mesh, fetch

KINDS = ("linear", "knn")
TEMPERATURE = 0.07  # of the votes, as in knn.run
RIDGE = 1.0
ROWS = 8192  # per chunk, as float64


def readout(train: Frozen, kind: str, k: int = 20) -> Callable[[np.ndarray], np.ndarray]:
    """predict(pooled [n, D]) -> class int32 [n], fitted to train.pooled and train.label.

    kind: "linear" is the closed form of ridge regression to targets of +1 and -1, in float64, on
    standardised features (scikit-learn's RidgeClassifier(alpha=1) after StandardScaler); "knn" the
    weighted vote of the k nearest, as in knn.run. Classes that train lacks are never predicted.
    """
    return ridge(train) if kind == "linear" else nearest(train, k)


def ridge(train: Frozen) -> Callable[[np.ndarray], np.ndarray]:
    classes, label = np.unique(train.label, return_inverse=True)
    mean = train.pooled.mean(axis=0, dtype=np.float64)
    std = train.pooled.std(axis=0, dtype=np.float64)
    std[std == 0] = 1.0

    def standardised(pooled):
        return (pooled - mean) / std

    width = len(mean)
    gram, sums = np.zeros((width, width)), np.zeros((len(classes), width))
    for start in range(0, len(label), ROWS):
        rows, at = standardised(train.pooled[start : start + ROWS]), label[start : start + ROWS]
        gram += rows.T @ rows
        np.add.at(sums, at, rows)
    # Targets are +1 for the class and -1 for others, less their mean; rows sum to 0, so of targets
    # only twice the +1 is left, and of the bias what differs between classes.
    kernel = scipy.linalg.solve(gram + RIDGE * np.eye(width), 2.0 * sums.T, assume_a="pos")
    bias = 2.0 * np.bincount(label) / len(label)

    def predict(pooled):
        return classes[np.argmax(standardised(pooled) @ kernel + bias, axis=1)].astype(np.int32)

    return predict


def nearest(train: Frozen, k: int) -> Callable[[np.ndarray], np.ndarray]:
    mesh = evaluation_mesh()
    lacking = -len(train.label) % mesh.size
    bank = cut(np.pad(train.pooled, ((0, lacking), (0, 0))), mesh, 0)
    label = cut(np.pad(train.label, (0, lacking), constant_values=-1), mesh, 0)

    def predict(pooled):
        size = min(knn.QUERIES, len(pooled))
        chunks = -(-len(pooled) // size)
        queries = np.pad(pooled, ((0, chunks * size - len(pooled)), (0, 0)))
        predicted = knn.predict(
            bank,
            label,
            queries.reshape(chunks, size, -1),
            ks=(min(k, len(train.label)),),
            temperature=TEMPERATURE,
            mesh=mesh,
        )
        return fetch(predicted).reshape(-1)[: len(pooled)].astype(np.int32)

    return predict


def look(validation: Frozen, name: str) -> Sample:
    """The images of a split. Raises ValueError where the evaluation round took none along."""
    if validation.sample is None:
        raise ValueError(
            f"evaluators.{name}: the validation split comes without its images; this evaluator "
            "alters them and needs Frozen.sample"
        )
    return validation.sample


def check(name: str, *, readout, k):
    """Raises ValueError for what no readout could use; name: of the evaluator."""
    if readout not in KINDS:
        raise ValueError(f"evaluators.{name}.readout={readout!r}: expected one of {list(KINDS)}")
    if k < 1:
        raise ValueError(f"evaluators.{name}.k={k}: expected at least 1")
