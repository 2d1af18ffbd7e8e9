"""Encoders. The only room that imports flax; everything else sees `features.Encoder`."""

from vitjax.lookup import lookup
from vitjax.models import bit, classic, coatnet, convit, convnext, mixer, pixels, resnet, vit

ENCODERS = {
    "vit": vit.create,
    "resnet": resnet.create,
    "bit": bit.create,
    "convnext": convnext.create,
    "coatnet": coatnet.create,
    "convit": convit.create,
    "mixer": mixer.create,
    "classic": classic.create,
    "pixels": pixels.create,
}


def create(name, **settings):
    """The encoder `name`, a key of ENCODERS, with the settings of its own `create`.

    Returns a `features.Encoder`. Raises ValueError for an unknown name or a bad value, TypeError
    for a setting that does not exist.
    """
    return lookup(ENCODERS, name, "encoder.name")(**settings)
