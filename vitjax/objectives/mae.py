"""Masked autoencoding (arXiv:2111.06377): pixels of hidden patches from those that are seen."""

import jax
import jax.numpy as jnp

from vitjax.models import decoder as decoder_lib
from vitjax.objectives import monitors
from vitjax.objectives.objective import Objective
from vitjax.objectives.self_supervised import masked_pixels, normalised_patches
from vitjax.ops import masks

# B batch, h x w grid of patches, N = h * w, P pixels of a patch.


def mae(
    *,
    encoder,
    image_size: int,
    mask_ratio: float = 0.75,
    normalise: bool = True,
    decoder_width: int = 512,
    decoder_depth: int = 8,
    decoder_heads: int = 16,
    monitor_steps: int = 20,
) -> Objective:
    """views: {"image": [B, S, S, 3]}.

    An encoder that can encodes the kept patches alone and the decoder sees mask tokens for the
    others; any other one sees the whole image with its own mask token in the place of what is
    hidden (SimMIM, arXiv:2111.09886; needs encoder.mask_token). normalise: the target is each
    patch's pixels less their mean, over their deviation. Raises ValueError, naming the config key.
    """
    if monitor_steps < 1:
        raise ValueError(f"objective.monitor_steps={monitor_steps}: expected 1 at least")
    shape = encoder.shape(image_size)
    h, w = shape.grid
    side = encoder.stride
    if (h * side, w * side) != (image_size, image_size):
        raise ValueError(
            f"objective.name mae needs whole patches: encoder {encoder.name} makes {h} x {w} of "
            f"{side} pixels from views.size={image_size}"
        )
    pixels = side * side * 3
    decoder = decoder_lib.pixel_decoder(
        shape.patches,
        shape.grid,
        pixels,
        width=decoder_width,
        depth=decoder_depth,
        heads=decoder_heads,
        dtype=shape.dtype,
    )
    masks.check_ratio(mask_ratio, shape.grid)

    def init(key):
        encoder_key, decoder_key = jax.random.split(key)
        variables = encoder.init(encoder_key, image_size=image_size)
        params = {"encoder": variables["params"], "decoder": decoder.init(decoder_key)}
        return params, {"stats": variables["stats"]}

    def loss(params, extra, views, key, step):
        images = views["image"]
        mask_key, noise = jax.random.split(key)
        kept, mask = masks.random_masks(mask_key, images.shape[0], shape.grid, mask_ratio)
        hidden = {"kept": kept} if encoder.keeps else {"mask": mask}
        variables = {"params": params["encoder"], "stats": extra["stats"]}
        features, stats = encoder.apply(variables, images, train=True, key=noise, **hidden)
        predicted = decoder.apply(
            params["decoder"], features.tokens, kept if encoder.keeps else None
        )
        target = cut(images, side)
        if normalise:
            target = normalised_patches(target)
        value = masked_pixels(predicted, target, mask.reshape(mask.shape[0], -1))
        metrics = {}
        if images.shape[0] > 1:
            metrics = monitors.of_features(step, monitor_steps, features.pooled, features.patches)
        return value, (metrics, extra | {"stats": stats})

    def after(params, extra, step):
        return extra

    def encoder_variables(params, extra):
        return {"params": params["encoder"], "stats": extra["stats"]}

    # A unit-variance target, and a Xavier layer on a normed vector (fan-in D, fan-out P).
    first = (pixels - 1) / pixels + 2 * decoder_width / (decoder_width + pixels)
    expect = f"expect at step 0: loss near {first:.2f}" if normalise else ""
    return Objective(init, loss, after, encoder_variables, expect=expect)


def cut(images, side):
    """[B, S, S, 3] -> the pixels of each patch, row by row: [B, N, side * side * 3]."""
    B, S = images.shape[:2]
    n = S // side
    patches = images.reshape(B, n, side, n, side, 3).transpose(0, 1, 3, 2, 4, 5)
    return jnp.asarray(patches.reshape(B, n * n, side * side * 3), jnp.float32)
