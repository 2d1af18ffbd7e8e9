"""The image itself as features: the baseline that every encoder has to beat."""

import flax.linen as nn

from vitjax.models.features import Encoder, Features
from vitjax.models.layers import refuse_mask

# B batch, S side of the image, h x w grid of patches, P side of a patch.


class Pixels(nn.Module):
    """No parameters: pixels in the order of rows."""

    side: int
    patch: int

    @nn.compact
    def __call__(self, images, train=False, mask=None, layers=()):
        del train, layers
        B, height, width, _ = images.shape
        refuse_mask("pixels", mask)
        if (height, width) != (self.side, self.side):
            raise ValueError(
                f"image size {height}x{width} is not encoder.side={self.side}: set one to the other"
            )
        P, h = self.patch, self.side // self.patch
        patches = images.reshape(B, h, P, h, P, 3).transpose(0, 1, 3, 2, 4, 5)
        patches = patches.reshape(B, h, h, P * P * 3)
        return Features(images.reshape(B, -1), patches, {}, {}, patches.reshape(B, h * h, -1))


def create(*, side, patch, dtype="float32"):
    """Raw pixels. Returns a `features.Encoder` without parameters and without layers.

    side: of the images, in pixels: `pooled` has side * side * 3 numbers. patch: side of a patch in
    pixels, each patch has patch * patch * 3 numbers. dtype: there is nothing to compute. Raises
    ValueError where the patch does not divide the side.
    """
    del dtype
    if side < 1 or patch < 1 or side % patch:
        raise ValueError(f"encoder.patch={patch} does not divide encoder.side={side}")
    return Encoder(
        name=f"pixels {side}/{patch}",
        width=side * side * 3,
        stride=patch,
        layers=(),
        network=Pixels(side, patch),
        macs=lambda image_size: 0,
    )
