"""Names and shapes of BiT and ResNet files, without torch; values are the parity tests' matter."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from vitjax import checkpoint, interop
from vitjax.interop.layout import Spec
from vitjax.interop.model import build

TINY = {"name": "bit", "variant": "R50x1", "depths": (3, 4), "width": 32}


def made(spec):
    """Random variables of a spec, every array different."""
    rng = np.random.default_rng(0)
    flat = checkpoint.flat(build(spec).shapes())
    arrays = {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in flat.items()}
    return {"encoder": {}, "head": {}, "stats": {}} | checkpoint.unflatten(arrays)


def written(layout, classes=5, **settings):
    spec = Spec(TINY | settings, classes=classes)
    tensors, files = interop.write(spec, made(spec), layout)
    return spec, tensors, files


def equal(got, want):
    assert set(got) == set(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize(
    ("layout", "settings"),
    [
        ("timm", {"form": "preact"}),
        ("big_vision", {"form": "preact"}),
        ("big_vision", {"form": "postact"}),
        ("big_vision", {"form": "preact", "depths": (1, 1, 2)}),
    ],
)
@pytest.mark.parametrize("classes", [0, 5])
def test_what_goes_out_comes_in_again_and_is_recognised(layout, settings, classes):
    spec, tensors, _ = written(layout, classes, **settings)
    model, variables = interop.read(tensors)  # the layout is found, and only one
    assert dict(model.spec.encoder) == dict(spec.encoder) and model.spec.classes == classes
    equal(checkpoint.flat(variables), checkpoint.flat(made(spec)))
    equal(interop.write(model.spec, variables, layout)[0], tensors)


def test_big_visions_names_of_bit_paper():
    """reference: big_vision's models/bit_paper.py."""
    _, tensors, files = written("big_vision", form="preact")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes["root_block/conv_root/kernel"] == (7, 7, 3, 32)
    assert shapes["block1/unit01/conv_proj/kernel"] == (1, 1, 32, 128)
    assert shapes["block2/unit01/conv2/kernel"] == (3, 3, 64, 64)
    assert shapes["block2/unit04/gn1/scale"] == (1, 1, 1, 256)
    assert shapes["norm-pre-head/bias"] == (1, 1, 1, 256)
    assert shapes["head/kernel"] == (256, 5) and shapes["head/bias"] == (5,)
    units = {re.match(r"block\d/unit\d+|", name)[0] for name in shapes} - {""}
    assert units == {f"block1/unit0{u}" for u in (1, 2, 3)} | {
        f"block2/unit0{u}" for u in (1, 2, 3, 4)
    }
    assert len(shapes) == 1 + 7 * 9 + 2 + 2 + 2 and files == {}


def test_big_visions_names_of_bit():
    """reference: big_vision's models/bit.py."""
    _, tensors, _ = written("big_vision", form="postact")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    assert shapes["conv_root/kernel"] == (7, 7, 3, 32) and shapes["gn_root/scale"] == (32,)
    assert shapes["block1/unit1/conv_proj/kernel"] == (1, 1, 32, 128)
    assert shapes["block1/unit1/gn_proj/bias"] == (128,)
    assert shapes["block2/unit4/gn3/scale"] == (256,)
    assert "norm-pre-head/bias" not in shapes and "block2/unit2/conv_proj/kernel" not in shapes
    assert len(shapes) == 3 + 7 * 9 + 2 * 3 + 2


def from_tensorflow(tensors, numbered):
    """The names of the files of arXiv:1912.11370, as timm and big_vision read them."""
    older = {}
    for name, tensor in tensors.items():
        if name.startswith("root_block"):
            name = "root_block/standardized_conv2d/kernel"
        elif name.startswith("norm-pre-head"):
            name = name.replace("norm-pre-head", "group_norm")
        elif name.startswith("head"):
            name = name.replace("head", "head/conv2d")
            tensor = tensor[None, None] if tensor.ndim == 2 else tensor
        elif "conv_proj" in name:
            conv = "standardized_conv2d_17" if numbered else "standardized_conv2d"
            name = name.replace("conv_proj", f"a/proj/{conv}")
        else:
            block, unit, part, leaf = name.split("/")
            kind = "standardized_conv2d" if part.startswith("conv") else "group_norm"
            name = f"{block}/{unit}/{'abc'[int(part[-1]) - 1]}/{kind}/{leaf}"
        if "group_norm" in name:
            name = name.replace("scale", "gamma").replace("bias", "beta")
            tensor = tensor.reshape(-1)
        older[f"resnet/{name}"] = tensor
    return older


@pytest.mark.parametrize("numbered", [False, True])
def test_tensorflows_names_are_read(numbered):
    spec, tensors, _ = written("big_vision", form="preact")
    older = from_tensorflow(tensors, numbered)
    assert "resnet/block1/unit02/b/group_norm/gamma" in older and not set(older) & set(tensors)
    model, variables = interop.read(older)
    assert dict(model.spec.encoder) == dict(spec.encoder)
    equal(checkpoint.flat(variables), checkpoint.flat(made(spec)))


def test_group_norms_of_four_dimensions_are_read_in_postact():
    spec, tensors, _ = written("big_vision", form="postact")
    older = {
        name: tensor.reshape(1, 1, 1, -1) if "/gn" in f"/{name}" else tensor
        for name, tensor in tensors.items()
    }
    assert older["gn_root/scale"].ndim == older["block1/unit1/gn3/bias"].ndim == 4
    equal(checkpoint.flat(interop.read(older)[1]), checkpoint.flat(made(spec)))


@pytest.mark.parametrize(
    ("variant", "units"), [("R50x1", (3, 4, 6, 3)), ("R101x3", (3, 4, 23, 3)), ("R26x2", (2,) * 4)]
)
def test_published_sizes_have_their_name(variant, units):
    width = 64 * int(variant[-1])
    tensors = {
        f"stages.{s}.blocks.{j}.conv3.weight": np.zeros((0,))
        for s, length in enumerate(units)
        for j in range(length)
    }
    tensors |= {"stem.conv.weight": np.zeros((width, 3, 7, 7)), "norm.weight": np.zeros((0,))}
    _, family, spec, _ = interop.recognise(tensors, "timm")
    assert family == "bit"
    assert spec.encoder == {"name": "bit", "variant": variant, "form": "preact"}
    assert spec.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("settings", "architecture", "stem", "channels"),
    [
        ({"variant": "R50x3"}, "resnetv2_50x3_bit", 64, [256, 512, 1024, 2048]),
        ({"variant": "R152x4"}, "resnetv2_152x4_bit", 64, [256, 512, 1024, 2048]),
        ({"variant": "R101x2"}, "resnetv2_101x1_bit", 128, [512, 1024, 2048, 4096]),
        ({"depths": (3, 8), "width": 32}, "resnetv2_152x2_bit", 16, [64, 128]),
    ],
)
def test_timms_architecture_is_the_one_whose_factor_fits(settings, architecture, stem, channels):
    """Its constructors multiply both by the factor in their name."""
    spec = Spec({"name": "bit"} | settings, classes=5)
    config = interop.LAYOUTS["timm"]["bit"].files(spec)["config.json"]
    assert config["architecture"] == architecture
    assert config["model_args"] == {"num_classes": 5, "stem_chs": stem, "channels": channels}


def test_other_files_are_not_taken_for_bit():
    _, tensors, _ = written("big_vision", form="postact")
    hybrid = tensors | {"embedding/kernel": np.zeros((1, 1, 256, 8))}
    _, preact, _ = written("timm")
    batch_norm = preact | {"norm.running_mean": np.zeros(256)}
    for other, layout in ((hybrid, "big_vision"), (batch_norm, "timm")):
        with pytest.raises(ValueError, match=f"no encoder that layout {layout} has"):
            interop.recognise(other, layout)


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("timm", {"form": "postact"}, r"timm has no bit with encoder.form='postact', only"),
        ("timm", {"depths": (2, 2)}, r"timm has no bit with stages of \(2, 2\) units"),
        ("torchvision", {}, "--to torchvision has no names for encoder 'bit'"),
    ],
)
def test_what_a_layout_cannot_say_is_one_line(layout, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        written(layout, **settings)
    assert "\n" not in str(error.value)


def test_a_layer_before_the_logits_is_refused():
    spec = Spec(TINY, classes=5, hidden=7)
    with pytest.raises(ValueError, match=r"big_vision has no bit with a layer .*head_hidden=7"):
        interop.write(spec, made(spec), "big_vision")


# ResNets.


def resnet(layout, classes=5, **settings):
    spec = Spec({"name": "resnet", "variant": "18"} | settings, classes=classes)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), build(spec).shapes())
    return spec, interop.write(spec, variables, layout)


def test_a_resnet_with_batch_norm_is_read_as_torchvisions_and_with_group_norm_as_timms():
    spec, (tensors, _) = resnet("torchvision")
    _, (same, _) = resnet("timm")
    assert set(tensors) == set(same) and len(tensors) == 122
    layout, _, found, _ = interop.recognise(tensors)
    assert layout == "torchvision" and dict(found.encoder) == dict(spec.encoder)

    spec, (tensors, files) = resnet("timm", norm="group")
    assert files["config.json"]["model_args"]["norm_layer"] == "groupnorm"
    layout, _, found, _ = interop.recognise(tensors)
    assert layout == "timm" and dict(found.encoder) == dict(spec.encoder)


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("torchvision", {"norm": "group"}, "torchvision has no resnet with encoder.norm='group'"),
        ("torchvision", {"width": 2}, "torchvision has no resnet with encoder.width=2, only"),
        ("timm", {"width": 0.5}, "timm has no resnet with encoder.width=0.5, only"),
        ("timm", {"stem": "small"}, "timm has no resnet with encoder.stem='small', only"),
        ("huggingface", {"norm": "group"}, "huggingface has no resnet with encoder.norm='group'"),
        ("huggingface", {"stem": "small"}, "huggingface has no resnet with encoder.stem='small'"),
    ],
)
def test_what_a_layout_cannot_say_of_a_resnet_is_one_line(layout, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        resnet(layout, **settings)
    assert "\n" not in str(error.value)


def test_other_resnets_are_refused_by_what_is_different():
    _, (tensors, _) = resnet("torchvision", variant="50", classes=0)

    def refused(changes, message):
        with pytest.raises(ValueError, match=message) as error:
            interop.recognise(tensors | changes, "torchvision")
        assert "\n" not in str(error.value)

    refused({"layer1.0.conv2.weight": np.zeros((128, 128, 3, 3))}, "no .* grouped or wider blocks")
    refused({"layer1.0.conv2.weight": np.zeros((64, 2, 3, 3))}, "no .* grouped or wider blocks")
    refused({"layer1.3.conv2.weight": np.zeros((64, 64, 3, 3))}, r"\(4, 4, 6, 3\) bottleneck")
    refused({"conv1.weight": np.zeros((64, 3, 3, 3))}, "conv1.weight is 3 x 3, 7 x 7 was expected")
    senet = tensors | {"layer1.0.se.fc1.weight": np.zeros((4, 64, 1, 1))}
    with pytest.raises(ValueError, match=r"1 unexpected: layer1.0.se.fc1.weight"):
        interop.read(senet, "torchvision")


def test_hugging_faces_other_resnets_are_refused():
    spec, (_, files) = resnet("huggingface")
    configure = interop.LAYOUTS["huggingface"]["resnet"].configure
    assert configure(spec, files["config.json"]) == spec
    assert configure(spec, {"model_type": "resnet"}) == spec
    with pytest.raises(ValueError, match=r"config.json says downsample_in_bottleneck=True"):
        configure(spec, files["config.json"] | {"downsample_in_bottleneck": True})


def test_the_processor_beside_a_resnet_keeps_the_crop():
    spec, _ = resnet("huggingface")
    preprocessing = dataclasses.replace(spec.preprocessing, crop=0.5, resize="bilinear")
    spec = dataclasses.replace(spec, image_size=64, preprocessing=preprocessing)
    beside = interop.LAYOUTS["huggingface"]["resnet"].files(spec)["preprocessor_config.json"]
    assert beside["size"] == {"shortest_edge": 128} and beside["resample"] == 2
    assert beside["crop_size"] == {"height": 64, "width": 64}
