"""Files that look like an encoder of ours and are not: refused in one line, never taken so."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from vitjax import interop
from vitjax.interop import vit_names
from vitjax.interop.layout import Spec

VIT = {"name": "vit", "variant": "S/4", "width": 64, "depth": 2, "mlp": 128, "heads": 4}
CLS = VIT | {"pool": "cls", "class_position": True, "activation": "gelu"}
SCALED = CLS | {"layer_scale": 0.1, "mask_token": True}


def made(classes=3, size=16, **encoder):
    """(spec, random variables) of a model."""
    spec = Spec(encoder, classes=classes, image_size=size)
    rng = np.random.RandomState(0)
    shapes = interop.build(spec).shapes()
    return spec, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("float32"), shapes)


def folder(tmp_path, tensors, **config):
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_for_timm_comes_back_as_the_encoder_it_was(tmp_path):
    """Heads and the tanh of GELU are in no tensor: config.json has them."""
    spec, variables = made(**VIT)
    interop.save(spec, variables, "timm", tmp_path / "out")
    model, _ = interop.load(tmp_path / "out")
    got = model.spec.settings()
    assert (got["heads"], got["activation"], got["pool"]) == (4, "gelu_tanh", "gap")


@pytest.mark.parametrize(
    ("architecture", "setting", "value"),
    [
        ("vit_base_patch32_siglip_256", "activation", "gelu_tanh"),
        ("vit_base_patch32_siglip_224", "activation", "gelu"),
        ("vit_base_patch16_gap_224", "heads", 16),
    ],
)
def test_architectures_of_timm_that_are_not_as_their_size(tmp_path, architecture, setting, value):
    spec, variables = made(**CLS)
    tensors, _ = interop.write(spec, variables, "timm")
    model, _ = interop.load(folder(tmp_path, tensors, architecture=architecture))
    assert model.spec.settings()[setting] == value


RESNET = {"name": "resnet", "variant": "18"}


@pytest.mark.parametrize(
    ("project", "encoder", "config", "message"),
    [
        ("timm", RESNET, {"architecture": "resnetblur18"}, "architecture='resnetblur18'"),
        ("timm", CLS, {"model_args": {"act_layer": "relu"}}, "act_layer='relu'"),
        ("huggingface", CLS, {"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu'"),
        ("huggingface", CLS, {"image_size": [16, 64]}, r"image_size=\[16, 64\]: expected a square"),
        (
            "huggingface",
            SCALED | {"class_position": False, "positions": "rotary", "registers": 2},
            {"rope_theta": 10000.0},
            r"rope_theta=10000\.0: expected 100",
        ),
    ],
)
def test_a_config_that_says_another_network_is_refused(tmp_path, project, encoder, config, message):
    classes = 0 if "registers" in encoder else 3
    tensors, _ = interop.write(*made(classes, 32, **encoder), project)
    with pytest.raises(ValueError, match=message) as error:
        interop.load(folder(tmp_path, tensors, **config))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("project", "changes", "message"),
    [
        ("torchvision", {"pool": "gap", "class_position": False}, "encoder.pool='gap'"),
        ("torchvision", {"activation": "gelu_tanh"}, "encoder.activation='gelu_tanh'"),
        ("torchvision", {"biases": "none"}, "encoder.biases='none'"),
        ("timm", {"norm_eps": 0.01}, r"encoder.norm_eps=0\.01"),
        ("timm", {"biases": "query_value"}, "encoder.biases='query_value'"),
        ("timm", {"activation": "swiglu"}, "no encoder.layer_scale"),
        ("timm", {"positions": "rotary", "class_position": False}, "encoder.positions='rotary'"),
        ("timm", {"local_norm_below": 8}, "encoder.local_norm_below=8"),
        ("huggingface", {"pool": "gap", "class_position": False}, "encoder.pool='gap'"),
        ("huggingface", {"biases": "query_value", "layer_scale": 0.1}, "biases='query_value'"),
        ("huggingface", {"positions": "rotary", "class_position": False}, "DINOv3ViT has no class"),
        ("dinov2", {"pool": "gap", "class_position": False}, "encoder.pool='gap'"),
        ("dinov2", {"activation": "gelu_tanh"}, "encoder.activation='gelu_tanh'"),
    ],
)
def test_what_a_project_cannot_run_is_not_written(project, changes, message):
    spec, variables = made(0 if project == "dinov2" else 3, **(CLS | changes))
    with pytest.raises(ValueError, match=message) as error:
        interop.write(spec, variables, project)
    assert "\n" not in str(error.value)


def zeros(*shape):
    return np.zeros(shape, np.float32)


def named(changes):
    """Tensors of a ViT of timm's with some taken away (None) or put in."""
    tensors, _ = interop.write(*made(**CLS), "timm")
    return {k: v for k, v in (tensors | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            lambda: {"storage_tokens": zeros(1, 2, 8), "blocks.0.attn.qkv.weight": zeros(24, 8)},
            "of no",
        ),
        (lambda: named({"pos_embed": zeros()}), "pos_embed .*: expected rows"),
        (lambda: named({"patch_embed.proj.weight": zeros()}), "of no encoder"),
        (lambda: named({"pos_embed": zeros(1, 18, 64)}), "expected a square"),
        (lambda: named({"dist_token": zeros(1, 1, 64)}), "two class tokens"),
        (lambda: named({"norm.weight": np.zeros(64, np.int8)}), "norm.weight int8 there"),
        (lambda: named({"patch_embed.proj.weight": zeros(64, 3, 4, 8)}), "expected square patches"),
        (
            lambda: {
                vit_names.HF_VIT.embedding + ".weight": zeros(8, 3, 4, 4),
                vit_names.HF_VIT.block.format(0) + "layernorm_before.weight": zeros(8),
            },
            "of no encoder",
        ),
    ],
)
def test_odd_tensors_are_one_line(tensors, message):
    with pytest.raises(ValueError, match=message) as error:
        interop.read(tensors())
    assert "\n" not in str(error.value)


def test_the_original_mae_is_timms_encoder_with_a_decoder_left_behind():
    tensors = named({"mask_token": zeros(1, 1, 16), "decoder_embed.weight": zeros(16, 64)})
    model, _ = interop.read(tensors, heads=4)
    assert model.spec.classes == 3


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="'hads' is unknown; did you mean 'heads'"):
        interop.read(named({}), hads=4)


def test_a_config_beside_a_file_is_read_as_in_its_folder(tmp_path):
    """Unless it is another project's."""
    spec, variables = made(**VIT | {"heads": 2})
    interop.save(spec, variables, "timm", tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    for place in (file.parent, file):
        settings = interop.load(place)[0].spec.settings()
        assert (settings["heads"], settings["activation"]) == (2, "gelu_tanh")
    (tmp_path / "out" / "config.json").write_text('{"heads": "many", "pool": 3}')
    assert interop.load(file, heads=2)[0].spec.settings()["activation"] == "gelu"


def test_registers_leave_for_timm_with_the_class_position_in_the_token():
    """timm's table has no rows for registers then: no_embed_class, as reg4_dinov2."""
    spec, variables = made(**CLS | {"registers": 2, "layer_scale": 0.1})
    tensors, files = interop.write(spec, variables, "timm")
    encoder = variables["encoder"]
    np.testing.assert_array_equal(tensors["cls_token"], encoder["cls"] + encoder["class_position"])
    assert tensors["pos_embed"].shape == (1, 16, 64)
    assert files["config.json"]["model_args"]["no_embed_class"] is True
    model, again = interop.read(tensors, "timm", heads=4)
    images = np.random.RandomState(1).normal(size=(1, 16, 16, 3)).astype("float32")
    got, want = model.apply(again, images), interop.build(spec).apply(variables, images)
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "config", "line"),
    [
        (CLS, {"global_pool": "avg"}, "global_pool='avg', over patches beside a class token"),
        (CLS, {"model_args": {"global_pool": "avg"}}, "beside a class token"),
        (VIT | {"pool": "map", "registers": 2}, {"global_pool": "map"}, "leaves registers out"),
        (CLS, {"pretrained_cfg": {"input_size": 3}}, "says nothing usable of the images"),
    ],
)
def test_what_timm_pools_otherwise_is_refused(tmp_path, encoder, config, line):
    tensors, _ = interop.write(*made(**encoder), "timm")
    with pytest.raises(ValueError, match=line):
        interop.load(folder(tmp_path, tensors, architecture="vit_tiny", **config))


def test_a_missing_tensor_is_named_whatever_it_is():
    tensors, _ = interop.write(*made(**CLS), "timm")
    del tensors["blocks.1.norm1.weight"]
    with pytest.raises(ValueError, match=r"missing: blocks\.1\.norm1\.weight"):
        interop.read(tensors, "timm", heads=4)


@pytest.mark.parametrize(
    ("layout", "encoder", "line"),
    [
        ("timm", {"pool": "map", "activation": "swiglu", "layer_scale": 0.1}, "with a gate"),
        ("dinov2", {"pool": "cls", "activation": "gelu", "qk_norm": True}, "qk_norm=True"),
        ("timm", {"variant": "R26+S/32", "stem_standardise": "deviation"}, "stem_standardise"),
        ("big_vision", {"variant": "R26+S/32", "stem_standardise": "variance"}, "stem_standardise"),
    ],
)
def test_what_a_project_cannot_say_is_refused_by_its_setting(layout, encoder, line):
    size = 32 if "variant" in encoder else 16
    settings = {"class_position": encoder.get("pool") == "cls"}
    spec = Spec(VIT | settings | encoder, classes=0, image_size=size)
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, "float32"), interop.build(spec).shapes()
    )
    with pytest.raises(ValueError, match=line):
        interop.write(spec, variables, layout)


def test_biases_of_keys_in_a_dinov3_file_are_not_dropped_unseen():
    tensors = {"storage_tokens": np.zeros((1, 2, 8)), "blocks.0.attn.qkv.bias": np.ones(24)}
    with pytest.raises(ValueError, match="biases of keys"):
        interop.read(tensors, "dinov3")
