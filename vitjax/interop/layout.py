"""What a layout is, and what a file of weights says of the encoder in it."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitjax import models
from vitjax.interop.rules import Rule, Shape


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How the weights want their images: pixels / 255, minus mean, over std, channel by channel;
    evaluated on the centre crop that keeps `crop` of the shorter side; resize: "bicubic" or
    "bilinear"."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    crop: float = 0.875
    resize: str = "bicubic"


IMAGENET = Preprocessing()
HALF = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Spec:
    """An encoder with its head, as a config would say it.

    encoder: the section of a config, {"name": ..., setting: value}. classes: outputs of a linear
    head on `pooled`, 0 for none. hidden: width of a tanh layer before it, 0 for none. image_size:
    pixels per side that tables and image-sized kernels were made for. preprocessing: of the images.
    """

    encoder: Mapping[str, Any]
    classes: int = 0
    hidden: int = 0
    image_size: int = 224
    preprocessing: Preprocessing = IMAGENET

    def settings(self) -> dict[str, Any]:
        """The encoder's settings, defaults filled in, without the name."""
        given = {key: value for key, value in self.encoder.items() if key != "name"}
        bound = inspect.signature(models.ENCODERS[self.encoder["name"]]).bind(**given)
        bound.apply_defaults()
        return dict(bound.arguments)


Tensors = dict[str, np.ndarray]


def untouched(tensors: Tensors) -> Tensors:
    return tensors


def as_recognised(spec: Spec, config: Mapping[str, Any]) -> Spec:
    return spec


class Layout(NamedTuple):
    """One project's names for one family of encoders.

    recognise(shapes by name) -> Spec, or None where the file is not of this layout; raises
    ValueError of one line for a file of this layout that no encoder of ours can hold.
    rules(spec) -> the table, for reading and for writing. Raises ValueError, naming the setting,
    for an encoder that this layout cannot say.
    prepare(tensors) -> tensors: prefixes, older names, folded parameters; before `recognise`; a
    file of another layout passes unchanged. ignored: a regular expression (re.search) of names that
    hold nothing an encoder here needs (counters, decoders); said, not refused.
    files(spec) -> {file name: JSON object} beside the weights; None where this is no way out.
    configure(spec, config) -> spec: what the shapes cannot say (heads, epsilons, activations) and
    the config.json beside the weights does; only called where there is one.
    """

    recognise: Callable[[Mapping[str, Shape]], Spec | None]
    rules: Callable[[Spec], list[Rule]]
    prepare: Callable[[Tensors], Tensors] = untouched
    ignored: str = r"(?!)"
    files: Callable[[Spec], dict[str, dict]] | None = None
    configure: Callable[[Spec, Mapping[str, Any]], Spec] = as_recognised


def require(spec: Spec, layout: str, **settings: Sequence) -> None:
    """Raise ValueError unless each setting of the encoder has one of the values given."""
    have = spec.settings()
    for key, values in settings.items():
        if have[key] not in values:
            words = " or ".join(repr(value) for value in values)
            raise ValueError(
                f"{layout} has no {spec.encoder['name']} with encoder.{key}={have[key]!r}, only "
                f"with {words}: give another --to"
            )


def blocks_of(shapes: Mapping[str, Shape], template: str) -> int:
    """How many blocks a file has, by the numbers in its names: one more than the highest, so that a
    tensor that is missing is missed by name. template: "blocks.{}.norm1.weight"."""
    before, _, behind = template.partition("{}")
    number = re.compile(re.escape(before) + r"(\d+)" + re.escape(behind[:1]))
    found = (number.match(name) for name in shapes)
    return max((int(match[1]) + 1 for match in found if match), default=0)
