"""Every variant has the published number of parameters, counted without making one."""

import jax
import pytest

from vitjax import models
from vitjax.models import heads

CLASS = {"pool": "cls", "class_position": True}
SCALED = {"layer_scale": 1e-5, "mask_token": True}
DINOV3 = {"pool": "cls", "positions": "rotary", "biases": "query_value", "registers": 4} | SCALED


def vit(variant, **settings):
    return "vit", {"variant": variant} | settings


def resnet(variant):
    return "resnet", {"variant": variant}


# (encoder, settings), image size, classes, hidden units of the head, parameters. Where the counts
# come from: big_vision's models, torchvision 0.28's, timm 1.0.31's and transformers 5.23's own,
# DINOv2's and DINOv3's repositories, built and counted; DINOv3's less the keys' biases, which are
# masked to zero there (a width in each block).
TABLE = [
    # big_vision
    (vit("Ti/16"), 224, 1000, 0, 5_717_032),
    (vit("S/16"), 224, 1000, 0, 22_049_896),
    (vit("S/32"), 224, 1000, 0, 22_878_184),
    (vit("S/16", positions="sincos"), 224, 1000, 384, 22_122_472),
    (vit("M/16"), 224, 1000, 0, 38_836_712),
    (vit("B/16"), 224, 1000, 0, 86_566_120),
    (vit("B/32"), 224, 1000, 0, 88_222_696),
    (vit("L/16"), 224, 1000, 0, 304_324_584),
    (vit("So400m/14"), 224, 1000, 0, 413_595_352),
    (vit("H/14"), 224, 1000, 0, 632_043_240),
    (vit("g/14"), 224, 1000, 0, 1_012_608_616),
    (vit("g-opt/16"), 224, 1000, 0, 1_136_283_112),
    (vit("G/14"), 224, 1000, 0, 1_844_437_352),
    (vit("G-opt/14"), 224, 1000, 0, 1_664_839_144),
    # vision_transformer, timm, torchvision: the class token has a position
    (vit("Ti/16", **CLASS), 224, 1000, 0, 5_717_416),
    (vit("S/16", **CLASS), 224, 1000, 0, 22_050_664),
    (vit("B/16", **CLASS), 224, 1000, 0, 86_567_656),
    (vit("L/16", **CLASS), 224, 1000, 0, 304_326_632),
    (vit("H/14", **CLASS), 224, 1000, 0, 632_045_800),
    (vit("S/16", pool="cls", layer_scale=1e-6), 224, 1000, 0, 22_059_496),  # DeiT III
    (vit("B/16", pool="cls", layer_scale=1e-6), 224, 1000, 0, 86_585_320),
    (vit("L/16", pool="cls", layer_scale=1e-6), 224, 1000, 0, 304_374_760),
    (vit("R50+B/16", **CLASS), 224, 0, 0, 97_890_112),
    (vit("R26+S/32", **CLASS), 224, 1000, 0, 36_431_912),
    (vit("R50+L/32", **CLASS), 224, 1000, 0, 328_994_856),
    (vit("So400m/14", pool="map"), 224, 0, 0, 427_680_704),
    # DINOv2 and DINOv3
    (vit("S/14", **CLASS, **SCALED), 518, 0, 0, 22_056_576),
    (vit("B/14", **CLASS, **SCALED), 518, 0, 0, 86_580_480),
    (vit("L/14", **CLASS, **SCALED, registers=4), 518, 0, 0, 304_372_736),
    (vit("dino-g/14", **CLASS, **SCALED, activation="swiglu"), 518, 0, 0, 1_136_480_768),
    (vit("S/16", **DINOV3), 224, 0, 0, 21_601_152 - 12 * 384),
    (vit("S+/16", **DINOV3, activation="swiglu"), 224, 0, 0, 28_697_472 - 12 * 384),
    (vit("B/16", **DINOV3), 224, 0, 0, 85_660_416),
    (vit("L/16", **DINOV3), 224, 0, 0, 303_154_176 - 24 * 1024),
    (vit("H+/16", **DINOV3, activation="swiglu"), 224, 0, 0, 840_633_600 - 32 * 1280),
    # torchvision
    (resnet("18"), 224, 1000, 0, 11_689_512),
    (resnet("34"), 224, 1000, 0, 21_797_672),
    (resnet("50"), 224, 1000, 0, 25_557_032),
    (resnet("101"), 224, 1000, 0, 44_549_160),
    (resnet("152"), 224, 1000, 0, 60_192_808),
]


def parameters(name, settings, image_size, classes, hidden):
    encoder, key = models.create(name, **settings), jax.random.key(0)
    trees = [jax.eval_shape(lambda key: encoder.init(key, image_size), key)["params"]]
    if classes:
        head = heads.classifier(encoder.width, classes, hidden)
        trees.append(jax.eval_shape(head.init, key))
    return sum(leaf.size for leaf in jax.tree.leaves(trees))


@pytest.mark.parametrize(
    ("encoder", "image_size", "classes", "hidden", "published"),
    TABLE,
    ids=[f"{name} {'-'.join(map(str, settings.values()))}" for (name, settings), *_ in TABLE],
)
def test_the_published_number_of_parameters(encoder, image_size, classes, hidden, published):
    assert parameters(*encoder, image_size, classes, hidden) == published
