"""An encoder with its head, and the weights of both: what comes in and what goes out."""

from typing import Any, NamedTuple

import jax

from vitjax import checkpoint, models
from vitjax.interop.layout import Spec
from vitjax.interop.rules import Shape
from vitjax.models import heads
from vitjax.models.features import Encoder, Features
from vitjax.models.heads import Head


class Model(NamedTuple):
    """An encoder and, where there are classes, a head on its `pooled`.

    variables: {"encoder": params, "head": params, "stats": running statistics}, plain nested
    dicts; head and stats are {} where there are none. spec: how it was made.
    """

    encoder: Encoder
    head: Head | None
    spec: Spec

    def apply(self, variables, images, layers=()) -> tuple[jax.Array | None, Features]:
        """images: [B, H, W, 3] float, normalised as spec.preprocessing says. Returns (logits
        [B, classes] float32, None without a head; Features with the layers asked for)."""
        weights = {"params": variables["encoder"], "stats": variables["stats"]}
        features, _ = self.encoder.apply(weights, images, layers=layers)
        if self.head is None:
            return None, features
        return self.head.apply(variables["head"], features.pooled), features

    def shapes(self) -> dict[str, Any]:
        """The tree of `variables` as ShapeDtypeStructs."""
        key = jax.random.key(0)
        encoder = jax.eval_shape(lambda key: self.encoder.init(key, self.spec.image_size), key)
        head = {} if self.head is None else jax.eval_shape(self.head.init, key)
        return {"encoder": encoder["params"], "head": head, "stats": encoder["stats"]}


def build(spec: Spec) -> Model:
    encoder = models.create(**spec.encoder)
    head = None
    if spec.classes:
        head = heads.classifier(encoder.width, spec.classes, hidden=spec.hidden)
    return Model(encoder, head, spec)


def flat_shapes(model: Model) -> dict[str, Shape]:
    return {path: tuple(leaf.shape) for path, leaf in checkpoint.flat(model.shapes()).items()}
