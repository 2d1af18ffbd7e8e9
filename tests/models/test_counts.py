"""Every variant has the published number of parameters, counted without making one."""

import jax
import pytest

from vitjax import models
from vitjax.models import coatnet, convit, convnext, heads

CLASS = {"pool": "cls", "class_position": True}
SCALED = {"layer_scale": 1e-5, "mask_token": True}
DINOV3 = {"pool": "cls", "positions": "rotary", "biases": "query_value", "registers": 4} | SCALED

TIMM_DINOV3 = {key: DINOV3[key] for key in ("pool", "positions", "registers", "layer_scale")}
TIMM_DINOV3 |= {"biases": "none"}
GIANT = 1_136_486_912


def vit(variant, **settings):
    return "vit", {"variant": variant} | settings


def of(name, variant, **settings):
    return name, {"variant": variant} | settings


# (encoder, settings), image size, classes, hidden units of the head, parameters. Where the counts
# come from: big_vision's models, torchvision 0.28's, timm 1.0.31's and transformers 5.23's own,
# DINOv2's and DINOv3's repositories, built and counted; DINOv3's less the keys' biases, which are
# masked to zero there (a width in each block). ConvNeXt V2's: timm and transformers agree.
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
    (vit("S/32", **CLASS), 224, 1000, 0, 22_878_952),
    (vit("B/32", **CLASS), 224, 1000, 0, 88_224_232),
    (vit("S/16", pool="cls", layer_scale=1e-6), 224, 1000, 0, 22_059_496),  # DeiT III
    (vit("B/16", pool="cls", layer_scale=1e-6), 224, 1000, 0, 86_585_320),
    (vit("L/16", pool="cls", layer_scale=1e-6), 224, 1000, 0, 304_374_760),
    (vit("R50+B/16", **CLASS), 224, 0, 0, 97_890_112),
    (vit("R50+B/16", **CLASS), 224, 1000, 0, 98_659_112),
    (vit("R26+S/32", **CLASS), 224, 1000, 0, 36_431_912),
    (vit("R50+L/32", **CLASS), 224, 1000, 0, 328_994_856),
    (vit("So400m/14", pool="map"), 224, 0, 0, 427_680_704),
    # DINOv2 and DINOv3
    (vit("S/14", **CLASS, **SCALED), 518, 0, 0, 22_056_576),
    (vit("B/14", **CLASS, **SCALED), 518, 0, 0, 86_580_480),
    (vit("L/14", **CLASS, **SCALED, registers=4), 518, 0, 0, 304_372_736),
    (vit("dino-g/14", **CLASS, **SCALED, activation="swiglu"), 518, 0, 0, 1_136_480_768),
    (vit("L/14", **CLASS, **SCALED), 518, 0, 0, 304_368_640),
    (vit("S/14", **CLASS, **SCALED, registers=4), 518, 0, 0, 22_058_112),
    (vit("B/14", **CLASS, **SCALED, registers=4), 518, 0, 0, 86_583_552),
    (vit("dino-g/14", **CLASS, **SCALED, registers=4, activation="swiglu"), 518, 0, 0, GIANT),
    (vit("L/14", **CLASS, layer_scale=1e-5), 518, 0, 0, 304_367_616),  # timm's have no mask token
    (vit("L/14", pool="cls", layer_scale=1e-5, registers=4), 518, 0, 0, 304_370_688),
    (vit("7B/16", **TIMM_DINOV3, activation="swiglu"), 224, 0, 0, 6_716_030_976),
    (vit("S/16", **DINOV3), 224, 0, 0, 21_601_152 - 12 * 384),
    (vit("S+/16", **DINOV3, activation="swiglu"), 224, 0, 0, 28_697_472 - 12 * 384),
    (vit("B/16", **DINOV3), 224, 0, 0, 85_660_416),
    (vit("L/16", **DINOV3), 224, 0, 0, 303_154_176 - 24 * 1024),
    (vit("H+/16", **DINOV3, activation="swiglu"), 224, 0, 0, 840_633_600 - 32 * 1280),
    # torchvision
    (of("resnet", "18"), 224, 1000, 0, 11_689_512),
    (of("resnet", "34"), 224, 1000, 0, 21_797_672),
    (of("resnet", "50"), 224, 1000, 0, 25_557_032),
    (of("resnet", "101"), 224, 1000, 0, 44_549_160),
    (of("resnet", "152"), 224, 1000, 0, 60_192_808),
    # big_vision: BiT after the paper's code, and its own V1
    (of("bit", "R50x1"), 224, 1000, 0, 25_549_352),
    (of("bit", "R101x1"), 224, 1000, 0, 44_541_480),
    (of("bit", "R50x3"), 224, 1000, 0, 217_319_080),
    (of("bit", "R50x1", form="postact"), 224, 1000, 0, 25_557_032),
    (of("mixer", "B/16"), 224, 1000, 0, 59_880_472),
    # Facebook, timm
    (of("convnext", "atto"), 224, 1000, 0, 3_695_520),
    (of("convnext", "femto"), 224, 1000, 0, 5_217_784),
    (of("convnext", "pico"), 224, 1000, 0, 9_045_672),
    (of("convnext", "nano"), 224, 1000, 0, 15_593_560),
    (of("convnext", "T"), 224, 1000, 0, 28_589_128),
    (of("convnext", "S"), 224, 1000, 0, 50_223_688),
    (of("convnext", "B"), 224, 1000, 0, 88_591_464),
    (of("convnext", "L"), 224, 1000, 0, 197_767_336),
    (of("convnext", "XL"), 224, 1000, 0, 350_196_968),
    (of("convnext", "V2-atto"), 224, 1000, 0, 3_708_400),
    (of("convnext", "V2-femto"), 224, 1000, 0, 5_233_240),
    (of("convnext", "V2-pico"), 224, 1000, 0, 9_066_280),
    (of("convnext", "V2-nano"), 224, 1000, 0, 15_623_800),
    (of("convnext", "V2-T"), 224, 1000, 0, 28_635_496),
    (of("convnext", "V2-B"), 224, 1000, 0, 88_717_800),
    (of("convnext", "V2-L"), 224, 1000, 0, 197_956_840),
    (of("convnext", "V2-H"), 224, 1000, 0, 660_289_640),
    # timm; after the paper with their tanh layer, as wide as the last stage
    (of("coatnet", "0"), 224, 1000, 768, 25_036_820),
    (of("coatnet", "1"), 224, 1000, 768, 42_225_776),
    (of("coatnet", "2"), 224, 1000, 1024, 74_684_744),
    (of("coatnet", "3"), 224, 1000, 1536, 166_966_264),
    (of("coatnet", "4"), 224, 1000, 1536, 275_425_288),
    (of("coatnet", "5"), 224, 1000, 2048, 687_472_008),
    (of("coatnet", "pico_rw"), 224, 1000, 0, 10_851_364),
    (of("coatnet", "nano_rw"), 224, 1000, 0, 15_141_244),
    (of("coatnet", "0_rw"), 224, 1000, 0, 27_435_562),
    (of("coatnet", "1_rw"), 224, 1000, 0, 41_721_502),
    (of("coatnet", "2_rw"), 224, 1000, 0, 73_868_400),
    (of("coatnet", "bn_0_rw"), 224, 1000, 0, 27_435_562),
    (of("coatnet", "rmlp_nano_rw"), 224, 1000, 0, 15_145_116),
    (of("coatnet", "rmlp_0_rw"), 224, 1000, 0, 27_446_074),
    (of("coatnet", "rmlp_1_rw"), 224, 1000, 0, 41_691_982),
    (of("coatnet", "rmlp_1_rw2"), 224, 1000, 0, 41_724_622),
    (of("coatnet", "rmlp_2_rw"), 224, 1000, 0, 73_881_264),
    (of("coatnet", "rmlp_3_rw"), 224, 1000, 0, 165_152_788),
    (of("coatnet", "3_rw"), 224, 11_821, 0, 181_805_305),  # the classes of its weights
    # timm (the "+" by its class: heads of 64)
    (of("convit", "Ti/16"), 224, 1000, 0, 5_710_512),
    (of("convit", "S/16"), 224, 1000, 0, 27_777_322),
    (of("convit", "B/16"), 224, 1000, 0, 86_540_040),
    (of("convit", "Ti+/16"), 224, 1000, 0, 9_972_912),
    (of("convit", "S+/16"), 224, 1000, 0, 48_979_882),
    (of("convit", "B+/16"), 224, 1000, 0, 153_134_856),
    # the papers (Neural Computation 1(4), 1989; torchvision's form of arXiv:1404.5997)
    (of("classic", "zip1989"), 16, 10, 0, 9_760),
    (of("classic", "lenet5"), 32, 0, 0, 60_000),  # less its output layer
    (of("classic", "alexnet"), 224, 1000, 0, 61_100_840),
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


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("convnext", convnext.VARIANTS),
        ("coatnet", coatnet.VARIANTS),
        ("convit", [f"{size}/16" for size in convit.SIZES]),
    ],
)
def test_no_variant_is_left_out(name, variants):
    assert {row["variant"] for (other, row), *_ in TABLE if other == name} == set(variants)
