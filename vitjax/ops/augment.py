"""Views of a batch, made on the accelerator inside the jitted step.

B batch, S side of the canvas. A batch is {"image": uint8 [B, S, S, 3], "size": int32 [B, 2],
"label": int32 [B], "index": uint32 [B], "epoch": uint32 [B]}. Every draw comes from
fold_in(fold_in(key, epoch), index), so a view depends on nothing but the key, the epoch and
the example: not on hosts, devices, the batch around it, or where a run was resumed.
"""

import functools
import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vitjax.lookup import lookup
from vitjax.ops import colour
from vitjax.ops.colour import IMAGENET_MEAN, IMAGENET_STD, normalize
from vitjax.ops.crop import (
    KERNELS,
    center_crop,
    center_crop_maps,
    center_crop_points,
    crop_resize,
    pad_crop,
    random_resized_crop,
)
from vitjax.ops.mix import mix, random_erasing
from vitjax.ops.policies import POLICIES

# Folded into an example's key. To renumber them is to change every run: append only.
CROP, FLIP, COLOUR, ERASING, MIX, POLICY = range(6)


def example_keys(batch, key):
    """One key per example [B]: fold_in(fold_in(key, epoch), index)."""
    fold = jax.random.fold_in
    return jax.vmap(lambda epoch, index: fold(fold(key, epoch), index))(
        batch["epoch"], batch["index"]
    )


def train_views(
    batch,
    key,
    *,
    classes,
    size,
    area=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    crop="resized",
    pad=4,
    method="linear",
    antialias=True,
    flip=True,
    policy=None,
    color_jitter=0.0,
    erasing=0.0,
    erasing_mode="noise",
    mixup=0.0,
    cutmix=0.0,
    mix_mode="batch",
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dtype="float32",
):
    """{"image": [B, size, size, 3] of `dtype`, "label": float32 [B, classes], soft}.

    crop: "resized" (a random box: `sample_box` with `area` and `ratio`), "none" (the whole image,
    resized), or "pad" (that, shifted by up to `pad` pixels into zeros). Then a flip with
    probability 1/2, a policy ({"name": one of POLICIES, and its settings}, on 8 bits), color_jitter
    (one strength for brightness, contrast and saturation; or three, or four with the hue),
    (x - mean) / std in 0..1 units, erasing (its probability; see `random_erasing` for its mode),
    mixup and cutmix (their Beta parameter; see `mix` for mix_mode).
    method, antialias: of resizing, see `resampling`. A label of -1 becomes a row of zeros. Raises
    ValueError for a bad setting.
    """
    jitter = jitter_strengths(color_jitter)
    check_common(size, method, mean, std, dtype)
    distorted = None if policy is None else _policy(policy)
    _check_train(classes, area, ratio, crop, pad, erasing, erasing_mode, mixup, cutmix, mix_mode)

    def view(image, true_size, key):
        keys = [jax.random.fold_in(key, operation) for operation in (CROP, FLIP, COLOUR, ERASING)]
        mirror = jax.random.bernoulli(keys[FLIP]) if flip else False
        if crop == "resized":
            image = random_resized_crop(
                image, true_size, keys[CROP], mirror, size, area, ratio, method, antialias
            )
        elif crop == "pad":
            dy, dx = jax.random.randint(keys[CROP], (2,), 0, 2 * pad + 1)
            image = pad_crop(image, true_size, dy, dx, mirror, size, pad, method, antialias)
        else:
            height, width = true_size
            image = crop_resize(image, 0, 0, height, width, mirror, size, method, antialias)
        if policy is not None:
            image = distorted(jnp.round(image), jax.random.fold_in(key, POLICY))
        image = image / 255.0
        if any(jitter):
            image = colour.color_jitter(image, keys[COLOUR], *jitter)
        image = normalize(image, mean, std)
        if erasing:
            image = random_erasing(image, keys[ERASING], erasing, mode=erasing_mode)
        return image

    keys = example_keys(batch, key)
    images = jax.vmap(view)(batch["image"], batch["size"], keys)
    labels = jax.nn.one_hot(batch["label"], classes, dtype=jnp.float32)
    mix_keys = jax.vmap(lambda key: jax.random.fold_in(key, MIX))(keys)
    images, labels = mix(images, labels, mix_keys, mixup, cutmix, mix_mode)
    return {"image": images.astype(dtype), "label": labels}


def eval_views(
    batch,
    *,
    size,
    crop=0.875,
    method="cubic",
    antialias=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    dtype="float32",
):
    """{"image": [B, size, size, 3] of `dtype`, "label": int32 [B]}: `center_crop`, normalised."""
    check_common(size, method, mean, std, dtype)
    expect(0 < crop <= 1, "crop", crop, "a number in (0, 1]")
    images = center_crop(batch, size, crop, method, antialias)
    return {"image": cropped_view(images, mean, std, dtype), "label": batch["label"]}


def cropped_view(images, mean=IMAGENET_MEAN, std=IMAGENET_STD, dtype="float32"):
    """Images that are cropped already, float32 [B, size, size, 3] in 0..255, as `eval_views`."""
    return normalize(images / 255.0, mean, std).astype(dtype)


def eval_crop(batch, *, size, crop=0.875, method="cubic", antialias=True):
    """The images of `eval_views` before they are normalised, and what is known of their pixels.

    Returns {"image": uint8 [B, size, size, 3], "label", "index"} and, where the batch has them,
    mask, part and depth [B, size, size] (nearest pixel) and points [B, K, 3] in pixels of the crop.
    """
    images = center_crop(batch, size, crop, method, antialias)
    out = {"image": jnp.round(images).astype(jnp.uint8)}
    out |= {name: batch[name] for name in ("label", "index")}
    for name in ("mask", "part", "depth"):
        if name in batch:
            out[name] = center_crop_maps(batch[name], batch["size"], size, crop)
    if "points" in batch:
        out["points"] = center_crop_points(batch["points"], batch["size"], size, crop)
    return out


def expect(condition, key, given, expected):
    if not condition:
        raise ValueError(f"views.{key} is {given!r}; expected {expected}")


def check_common(size, method, mean, std, dtype):
    expect(isinstance(size, int) and size > 0, "size", size, "a positive number of pixels")
    expect(method in KERNELS, "method", method, f"one of {sorted(KERNELS)}")
    expect(len(mean) == 3, "mean", mean, "three numbers in 0..1")
    expect(len(std) == 3 and min(std) > 0, "std", std, "three positive numbers in 0..1 units")
    expect(dtype in ("float32", "bfloat16", "float16"), "dtype", dtype, "a float type's name")


def _check_train(classes, area, ratio, crop, pad, erasing, erasing_mode, mixup, cutmix, mix_mode):
    expect(classes >= 0, "classes", classes, "a number of classes, 0 for none")
    expect(len(area) == 2 and 0 < area[0] <= area[1] <= 1, "area", area, "0 < low <= high <= 1")
    expect(len(ratio) == 2 and 0 < ratio[0] <= ratio[1], "ratio", ratio, "0 < low <= high")
    expect(crop in ("resized", "none", "pad"), "crop", crop, "'resized', 'none' or 'pad'")
    expect(isinstance(pad, int) and pad >= 0, "pad", pad, "a number of pixels >= 0")
    expect(0 <= erasing <= 1, "erasing", erasing, "a probability")
    expect(erasing_mode in ("noise", "zero"), "erasing_mode", erasing_mode, "'noise' or 'zero'")
    expect(mixup >= 0, "mixup", mixup, "the a of Beta(a, a), 0 for none")
    expect(cutmix >= 0, "cutmix", cutmix, "the a of Beta(a, a), 0 for none")
    expect(mix_mode in ("batch", "example"), "mix_mode", mix_mode, "'batch' or 'example'")


def _policy(section):
    """(image, key) -> image, from the name of a policy and its settings."""
    expected = f"None, or a name and its settings: {', '.join(POLICIES)}"
    expect(isinstance(section, Mapping) and "name" in section, "policy", section, expected)
    settings = dict(section)
    function = lookup(POLICIES, settings.pop("name"), "views.policy.name")
    known = list(inspect.signature(function).parameters)[2:]  # behind image and key
    wrong = sorted(set(settings) - set(known))
    expected = f"settings of {section['name']}, which has no {', '.join(wrong)}"
    expect(not wrong, "policy", dict(section), expected)
    return functools.partial(function, **settings)


def jitter_strengths(given):
    """(brightness, contrast, saturation, hue) from one strength, three, or four."""
    strengths = (given,) * 3 if isinstance(given, (int, float)) else tuple(given)
    expected = "a strength >= 0, or three, or four with a hue of at most 0.5"
    expect(len(strengths) in (3, 4) and min(strengths) >= 0, "color_jitter", given, expected)
    strengths += (0.0,) * (4 - len(strengths))
    expect(strengths[3] <= 0.5, "color_jitter", given, expected)
    return strengths
