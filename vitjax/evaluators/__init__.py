"""What frozen features know: plain functions of features, with no trainer, schedule or writer."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from vitjax.evaluators import (
    accuracy,
    alterations,
    attentive,
    corruptions,
    cues,
    depth,
    equivariance,
    fewshot,
    foreground,
    knn,
    linear,
    locality,
    logistic,
    matching,
    monitors,
    patch_knn,
    receptive_field,
    retrieval,
    segmentation,
    spectrum,
    tokencut,
)
from vitjax.evaluators.features import FeatureCache, Frozen, extract


class Evaluator(NamedTuple):
    """run(train, validation, **settings) -> {"top1": ...}.

    check(**settings), all of them, raises ValueError where no run could use one. train, validation:
    the fields of Frozen that it reads of these splits; train is None where it reads nothing of it.
    needs: what the data set has to know of its pixels, one of these at least.
    """

    run: Callable[..., dict[str, float]]
    check: Callable[..., None]
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ("pooled",)
    needs: tuple[str, ...] = ()


def dense(module, train: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> Evaluator:
    """One that looks at the patches of the sample."""
    return Evaluator(module.run, module.check, train, ("sample",), needs)


def altered(run: Callable, check: Callable) -> Evaluator:
    """One that encodes changed images of the sample, for what the train split taught."""
    return Evaluator(run, check, ("pooled",), ("sample",))


VECTORS = ("pooled", "layers", "patch_mean")
SAMPLE = ("sample",)

EVALUATORS = {
    # Of whole images.
    "accuracy": Evaluator(accuracy.run, lambda: None, validation=("logits",)),
    "knn": Evaluator(knn.run, knn.check, train=("pooled",)),
    "linear": Evaluator(linear.run, linear.check, train=VECTORS, validation=VECTORS),
    "fewshot": Evaluator(fewshot.run, fewshot.check, train=("pooled",)),
    "logistic": Evaluator(logistic.run, logistic.check, train=("pooled",)),
    "retrieval": Evaluator(retrieval.run, lambda: None),
    "monitors": Evaluator(monitors.run, monitors.check, validation=("layers", *SAMPLE)),
    # Of patches.
    "attentive": dense(attentive, SAMPLE),
    "patch_knn": dense(patch_knn, SAMPLE, needs=("mask",)),
    "segmentation": dense(segmentation, SAMPLE, needs=("mask",)),
    "depth": dense(depth, SAMPLE, needs=("depth",)),
    "foreground": Evaluator(foreground.run, lambda: None, validation=SAMPLE, needs=("mask",)),
    "tokencut": dense(tokencut, needs=("mask",)),
    "matching": dense(matching, needs=("points", "part")),
    # Of images that were changed.
    "corruptions": altered(corruptions.run, corruptions.check),
    "shift": altered(alterations.shift, alterations.check_shift),
    "shuffle": altered(alterations.shuffle, alterations.check_shuffle),
    "occlusion": altered(alterations.occlusion, alterations.check_occlusion),
    "scale": altered(alterations.scale, alterations.check_scale),
    "cue_conflict": altered(cues.cue_conflict, cues.check_cue_conflict),
    "style": altered(cues.style, cues.check_style),
    # Of what is built in, or learned: the study plots these (study.analysis.BIAS).
    "bias_attention": dense(locality),
    "bias_equivariance": dense(equivariance),
    "bias_field": dense(receptive_field),
    "bias_spectrum": altered(spectrum.run, spectrum.check),
}


def resolve(name: str, settings: Mapping) -> dict:
    """The settings of an evaluator, with its defaults for those left out. Raises TypeError for an
    unknown one."""
    bound = inspect.signature(EVALUATORS[name].run).bind(None, None, **settings)
    bound.apply_defaults()
    return {k: v for k, v in bound.arguments.items() if k not in ("train", "validation")}


def check(name: str, settings: Mapping) -> None:
    """Raise ValueError where no run of an evaluator could use its settings."""
    if not isinstance(settings, Mapping):
        raise ValueError(f"evaluators.{name}={settings!r}: expected settings, or {{}} for none")
    settings = resolve(name, settings)
    parameters = inspect.signature(EVALUATORS[name].run).parameters
    for key, value in settings.items():
        default = parameters[key].default
        if default is not None and not alike(value, default):
            raise ValueError(
                f"evaluators.{name}.{key}={value!r}: expected something like {default!r}"
            )
    EVALUATORS[name].check(**settings)


def alike(value, default) -> bool:
    """Whether a value is of the kind of a default: so wrong ones do not fail in a later round."""
    if isinstance(default, str | bool):
        return type(value) is type(default)
    if isinstance(default, Sequence):
        return isinstance(value, list | tuple) and all(alike(each, default[0]) for each in value)
    if isinstance(value, bool):
        return False
    return isinstance(value, int if isinstance(default, int) else int | float)


def protocol(name: str, settings: Mapping, splits: Sequence[str] = ()) -> str:
    """8 hex digits to log beside a number: equal where evaluator, settings and splits are.

    Settings left out count with their defaults. Raises TypeError for an unknown one.
    """
    text = json.dumps([name, resolve(name, settings), list(splits)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


__all__ = ["EVALUATORS", "Evaluator", "FeatureCache", "Frozen", "check", "extract", "protocol"]
