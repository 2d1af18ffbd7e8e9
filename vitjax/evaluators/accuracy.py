"""Accuracy of the objective's own classifier."""

import numpy as np

from vitjax.evaluators.features import Frozen


def run(train: Frozen | None, validation: Frozen) -> dict[str, float]:
    """{"top1", "cross_entropy" (nats)} of the logits, and "top5" above 5 classes.

    Equal logits rank by class number and NaN ranks last, so a constant or broken classifier gains
    nothing by it. Raises ValueError where there are no logits.
    """
    del train
    logits, label = validation.logits, validation.label
    if logits is None:
        raise ValueError(
            "evaluators.accuracy: this objective predicts no classes; remove evaluators.accuracy"
        )
    classes = logits.shape[1]
    if label.max() >= classes:
        raise ValueError(
            f"evaluators.accuracy: label {label.max()}, but the model has {classes} classes; "
            "evaluate a data set with the classes it was trained on, or remove evaluators.accuracy"
        )
    true = np.take_along_axis(logits, label[:, None], axis=1)  # [N, 1]
    before = (logits == true) & (np.arange(classes)[None, :] < label[:, None])
    rank = np.sum(~(logits <= true) | before, axis=1)
    top = logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.sum(np.exp(logits - top), axis=1, dtype=np.float64))
    losses = log_sum + (top - true)[:, 0]
    result = {"top1": float(np.mean(rank < 1)), "cross_entropy": float(np.mean(losses))}
    return result | {"top5": float(np.mean(rank < 5))} if classes > 5 else result
