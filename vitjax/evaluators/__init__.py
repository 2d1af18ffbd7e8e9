"""What frozen features know: plain functions of features, with no trainer, schedule or writer."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vitjax.evaluators import accuracy, knn, linear
from vitjax.evaluators.features import FeatureCache, Frozen, extract


class Evaluator(NamedTuple):
    """run(train, validation, **settings) -> {"top1": ...}; train may be None if not needs_train."""

    run: Callable[..., dict[str, float]]
    needs_train: bool


EVALUATORS = {
    "accuracy": Evaluator(accuracy.run, needs_train=False),
    "knn": Evaluator(knn.run, needs_train=True),
    "linear": Evaluator(linear.run, needs_train=True),
}


def protocol(name: str, settings: Mapping, splits: Sequence[str] = ()) -> str:
    """8 hex digits to log beside a number: equal where evaluator, settings and splits are.

    Settings left out count with their defaults. Raises TypeError on an unknown setting, so calling
    this when a run starts finds the misspelt ones.
    """
    bound = inspect.signature(EVALUATORS[name].run).bind(None, None, **settings)
    bound.apply_defaults()
    resolved = {
        key: value for key, value in bound.arguments.items() if key not in ("train", "validation")
    }
    text = json.dumps([name, resolved, list(splits)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


__all__ = ["EVALUATORS", "Evaluator", "FeatureCache", "Frozen", "extract", "protocol"]
