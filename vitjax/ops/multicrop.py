"""Several views of each image, of two sizes, made on the accelerator from one decoded canvas.

B images, S side of a global crop, s of a local one, L local crops of an image. Every draw comes
from the example's key (augment.example_keys) and the number of the crop, so a crop depends on
nothing else. Geometry, then colours, as in DINOv2 (arXiv:2304.07193): crop, flip, jitter, grey,
blur, solarize, normalise.
"""

import jax
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.ops import colour
from vitjax.ops.augment import (
    COLOUR,
    CROP,
    FLIP,
    check_common,
    example_keys,
    expect,
    jitter_strengths,
)
from vitjax.ops.blur import random_gaussian_blur
from vitjax.ops.colour import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalize,
    random_grey,
    random_solarize,
)
from vitjax.ops.crop import random_resized_crop

# Folded into a crop's key beside those of augment. Append only.
JITTER, GREY, BLUR, SOLARIZE = range(16, 20)
G = 2

# How often the first global crop, the second and a local one are blurred. The code that trained
# DINOv2's and DINOv3's released weights hands 1 - p where p is meant (its issue 411).
BLURS = {
    "paper": (1.0, 0.1, 0.5),  # DINO (arXiv:2104.14294), iBOT and the texts
    "dinov2_released": (0.0, 0.9, 0.5),
}


def multicrop(
    batch,
    key,
    *,
    size,
    local_size=96,
    local_crops=8,
    gram_size=None,
    global_area=(0.32, 1.0),
    local_area=(0.05, 0.32),
    ratio=(3 / 4, 4 / 3),
    method="cubic",
    antialias=True,
    flip=True,
    color_jitter=(0.4, 0.4, 0.2, 0.1),
    jitter=0.8,
    grey=0.2,
    blur="paper",
    blur_sigma=(0.1, 2.0),
    blur_taps=9,
    solarize=(0.0, 0.2, 0.0),
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dtype="float32",
):
    """{"global": [B, 2, size, size, 3] of `dtype`}, with local crops also "local": [B, local_crops,
    local_size, local_size, 3], with gram_size "gram": the global boxes at that size, as they are.

    Each crop is a random box (`crop.sample_box`: global_area or local_area, and ratio), flipped
    with probability 1/2. Then with probability `jitter` color_jitter (as in augment.train_views),
    grey with that of `grey`, a Gaussian blur (blur_taps, sigma uniform in blur_sigma) and
    solarize. blur, solarize: probabilities of the first global crop, the second, a local one;
    blur may be a name in BLURS. The two global crops come first, so crop number c of an image is
    the same however many there are. Raises ValueError for a bad setting.
    """
    strengths = jitter_strengths(color_jitter)
    blur = lookup(BLURS, blur, "views.blur") if isinstance(blur, str) else tuple(blur)
    check_common(size, method, mean, std, dtype)
    _check(local_size, local_crops, gram_size, blur_taps, blur_sigma)
    for name, area in {"global_area": global_area, "local_area": local_area}.items():
        expect(len(area) == 2 and 0 < area[0] <= area[1] <= 1, name, area, "0 < low <= high <= 1")
    chances = {"blur": blur, "solarize": tuple(solarize), "jitter": (jitter,), "grey": (grey,)}
    for name, values in chances.items():
        good = len(values) == (3 if name in ("blur", "solarize") else 1)
        expect(good and all(0 <= p <= 1 for p in values), name, values, "probabilities")

    def box(image, true_size, key, area, side):
        mirror = jax.random.bernoulli(jax.random.fold_in(key, FLIP)) if flip else False
        place = jax.random.fold_in(key, CROP)
        view = random_resized_crop(
            image, true_size, place, mirror, side, area, ratio, method, antialias
        )
        return view / 255.0

    def colours(view, key, blur_chance, solarize_chance):
        keys = {op: jax.random.fold_in(key, op) for op in (COLOUR, JITTER, GREY, BLUR, SOLARIZE)}
        if jitter and any(strengths):
            changed = colour.color_jitter(view, keys[COLOUR], *strengths)
            view = jnp.where(jax.random.bernoulli(keys[JITTER], jitter), changed, view)
        if grey:
            view = random_grey(view, keys[GREY], grey)
        if any(blur):
            view = random_gaussian_blur(view, keys[BLUR], blur_chance, blur_sigma, blur_taps)
        if any(solarize):
            view = random_solarize(view, keys[SOLARIZE], solarize_chance)
        return normalize(view, mean, std)

    def crops(numbers, area, side, photometric=True):
        """[B, len(numbers), side, side, 3]."""
        kinds = jnp.minimum(numbers, G)

        def one(image, true_size, key, number, kind):
            key = jax.random.fold_in(key, number)
            view = box(image, true_size, key, area, side)
            if not photometric:
                return normalize(view, mean, std)
            chance = (jnp.asarray(each, jnp.float32)[kind] for each in (blur, solarize))
            return colours(view, key, *chance)

        some = jax.vmap(one, in_axes=(None, None, None, 0, 0))
        many = jax.vmap(some, in_axes=(0, 0, 0, None, None))
        keys = example_keys(batch, key)
        return many(batch["image"], batch["size"], keys, numbers, kinds).astype(dtype)

    views = {"global": crops(jnp.arange(G), global_area, size)}
    if local_crops:
        views["local"] = crops(G + jnp.arange(local_crops), local_area, local_size)
    if gram_size is not None:
        views["gram"] = crops(jnp.arange(G), global_area, gram_size, photometric=False)
    return views


def _check(local_size, local_crops, gram_size, blur_taps, blur_sigma):
    expect(
        isinstance(local_crops, int) and local_crops >= 0,
        "local_crops",
        local_crops,
        "a number, 0 for none",
    )
    sides = {"local_size": local_size} | ({} if gram_size is None else {"gram_size": gram_size})
    for name, side in sides.items():
        expect(isinstance(side, int) and side > 0, name, side, "a positive number of pixels")
    odd = isinstance(blur_taps, int) and blur_taps > 0 and blur_taps % 2 == 1
    expect(odd, "blur_taps", blur_taps, "an odd number of pixels")
    good = len(blur_sigma) == 2 and 0 < blur_sigma[0] <= blur_sigma[1]
    expect(good, "blur_sigma", blur_sigma, "0 < low <= high, in pixels")
