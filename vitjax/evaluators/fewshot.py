"""Few-shot ridge regression in closed form, as in big_vision (evaluators/fewshot_lsr.py).

N examples of the few-shot set, D width with the constant feature, C classes. On the host, float64.
"""

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from vitjax.evaluators.features import Frozen

CONSTANT = 100.0  # a feature this large is a bias that the penalty hardly reaches
CHUNK = 4096  # rows that are float64 at a time


def run(
    train: Frozen,
    validation: Frozen,
    *,
    shots: Sequence[int] = (1, 5, 10, 25),
    seeds: Sequence[int] = (0, 1, 2),
    l2: float = 1024.0,
) -> dict[str, float]:
    """{"top1_5shot": mean accuracy over the seeds, "top1_5shot_std": its standard deviation, ...}.

    `shots` train examples of each class are regressed on targets of 1 for their class and -1 for
    the others; the largest output is the prediction. Sets of one seed are nested. A count above the
    size of the smallest class of train is left out; where none remains, ValueError.
    """
    check(shots=shots, seeds=seeds, l2=l2)
    classes, label = np.unique(train.label, return_inverse=True)
    smallest = int(np.bincount(label).min())
    possible = [count for count in sorted(set(shots)) if count <= smallest]
    if not possible:
        raise ValueError(
            f"evaluators.fewshot.shots={shots!r}: expected a count of at most {smallest}, the "
            "images of the smallest class of train"
        )
    result = {}
    for count in possible:
        scores = []
        for seed in seeds:
            rows = draw(label, count, seed)
            kernel, bias = fit(train.pooled[rows], label[rows], len(classes), l2)
            hits = classes[predict(validation.pooled, kernel, bias)] == validation.label
            scores.append(np.mean(hits))
        result[f"top1_{count}shot"] = float(np.mean(scores))
        result[f"top1_{count}shot_std"] = float(np.std(scores))
    return result


def check(*, shots, seeds, l2):
    if not isinstance(shots, Sequence) or not shots or min(shots) < 1:
        raise ValueError(
            f"evaluators.fewshot.shots={shots!r}: expected a list of counts of at least 1"
        )
    if not isinstance(seeds, Sequence) or not seeds or min(seeds) < 0:
        raise ValueError(
            f"evaluators.fewshot.seeds={seeds!r}: expected a list of seeds of at least 0"
        )
    if not l2 > 0:
        raise ValueError(f"evaluators.fewshot.l2={l2}: expected a number above 0")


def draw(label: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows of the few-shot set: of each class in turn the first of a permutation by the seed."""
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(label))[:-1])
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows)[:shots] for rows in groups])


def fit(pooled, label, classes, l2):
    """pooled [N, D - 1], label [N] -> (kernel [D - 1, C], bias [C]) for features as they come."""
    pooled = pooled.astype(np.float64)
    mean, scale = pooled.mean(axis=0), pooled.std(axis=0) + 1e-5
    rows = np.pad((pooled - mean) / scale, ((0, 0), (0, 1)), constant_values=CONSTANT)
    weights = ridge(rows, 2.0 * np.eye(classes)[label] - 1.0, l2)
    kernel = weights[:-1] / scale[:, None]
    return kernel, CONSTANT * weights[-1] - mean @ kernel


def ridge(rows: np.ndarray, targets: np.ndarray, l2: float) -> np.ndarray:
    """The W [D, C] that minimises |rows W - targets|^2 + l2 |W|^2; rows [N, D], targets [N, C].

    (X'X + l2)^-1 X'Y = X'(XX' + l2)^-1 Y: the smaller of the two systems is solved.
    """
    n, d = rows.shape
    if n >= d:
        gram = rows.T @ rows + l2 * np.eye(d)
        return scipy.linalg.solve(gram, rows.T @ targets, assume_a="pos")
    gram = rows @ rows.T + l2 * np.eye(n)
    return rows.T @ scipy.linalg.solve(gram, targets, assume_a="pos")


def predict(pooled, kernel, bias):
    """Column of the largest output for each row of pooled."""
    parts = [
        np.argmax(pooled[start : start + CHUNK] @ kernel + bias, axis=1)
        for start in range(0, len(pooled), CHUNK)
    ]
    return np.concatenate(parts)
