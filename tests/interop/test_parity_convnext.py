"""ConvNeXt beside timm, torchvision and transformers, and its exports in them."""

import json

import numpy as np
import originals
import pytest
from safetensors.numpy import save_file

from vitjax import interop
from vitjax.interop.layout import Spec
from vitjax.models.convnext import LAYERS

pytestmark = pytest.mark.parity

torch = originals.torch
TINY = {"depths": (1, 2, 1, 1), "dims": (8, 16, 24, 40)}
HUGGINGFACE = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 40]}


def compare(layout, original, stages, size, logits=None):
    """Logits and every stage beside the original's. stages(images) -> their maps, stem first.

    Returns (model, variables, images, logits of theirs, our Features)."""
    tensors = originals.tensors_of(original)
    model, variables = interop.read(tensors, layout)
    x = originals.images(size)
    got_logits, features = originals.ours(model, variables, x, LAYERS)
    maps = originals.theirs(stages, x)
    assert len(maps) == len(LAYERS)
    for name, map in zip(LAYERS, maps, strict=True):
        originals.close(features.layers[name], originals.nhwc(map), name)
    want = originals.theirs(logits or original, x)
    originals.close(features.pooled if got_logits is None else got_logits, want, "logits")
    originals.comes_back(tensors, layout, but=r"^norms\.3\.|^model\.")
    return model, variables, x, want, features


def timm_stages(original):
    def stages(x):
        return [original.stem(x), *original.forward_intermediates(x, intermediates_only=True)]

    return stages


def timm_loads(model, variables, x, want):
    """What we write, in the model that our config.json names, with strict=True."""
    timm = originals.package("timm")
    tensors, files = interop.write(model.spec, variables, "timm")
    config = json.loads(json.dumps(files["config.json"]))
    again = timm.create_model(config["architecture"], **config["model_args"]).eval()
    again.load_state_dict({k: torch.from_numpy(t) for k, t in tensors.items()}, strict=True)
    assert again.num_features == config["num_features"]
    assert again.num_classes == config["num_classes"]
    originals.close(originals.theirs(again, x), want, "in timm again")


@pytest.mark.parametrize(
    ("name", "variant", "size"),
    [("convnext_tiny", "T", 224), ("convnextv2_atto", "V2-atto", 224)],
)
def test_timm_at_full_size(name, variant, size):
    original = originals.randomise(originals.package("timm").create_model(name))
    model, variables, x, want, _ = compare("timm", original, timm_stages(original), size)
    assert model.spec == Spec({"name": "convnext", "variant": variant}, classes=1000)
    timm_loads(model, variables, x, want)


@pytest.mark.parametrize(("name", "classes"), [("convnext_atto", 0), ("convnextv2_tiny", 5)])
def test_timm_in_both_forms_of_the_mlp_at_a_size_that_does_not_fit(name, classes):
    timm = originals.package("timm")
    original = timm.create_model(name, num_classes=classes, patch_size=3, **TINY)
    original = originals.randomise(original)
    model, variables, x, want, _ = compare("timm", original, timm_stages(original), 93)
    variant = {"convnext_atto": "atto", "convnextv2_tiny": "V2-T"}[name]
    assert model.spec.encoder == {"name": "convnext", "variant": variant, "patch": 3, **TINY}
    timm_loads(model, variables, x, want)


def test_torchvision_at_full_size():
    torchvision = originals.package("torchvision")
    original = originals.randomise(torchvision.models.convnext_tiny())

    def stages(x):
        maps = []
        for index, layer in enumerate(original.features):
            x = layer(x)
            if index == 0 or index % 2:
                maps.append(x)
        return maps

    model, variables, x, want, _ = compare("torchvision", original, stages, 224)
    assert model.spec == Spec({"name": "convnext", "variant": "T"}, classes=1000)
    tensors, files = interop.write(model.spec, variables, "torchvision")
    again = torchvision.models.convnext_tiny().eval()
    again.load_state_dict({k: torch.from_numpy(t) for k, t in tensors.items()}, strict=True)
    originals.close(originals.theirs(again, x), want, "in torchvision again")
    assert files == {}


@pytest.mark.parametrize(
    ("name", "variant", "classes"),
    [("ConvNext", "T", 5), ("ConvNextV2", "V2-T", 5), ("ConvNextV2", "V2-T", 0)],
)
def test_huggingface(name, variant, classes, tmp_path):
    transformers = originals.package("transformers")
    config = getattr(transformers, f"{name}Config")(**HUGGINGFACE, num_labels=classes)
    kind = "ForImageClassification" if classes else "Model"
    original = originals.randomise(getattr(transformers, name + kind)(config))

    def stages(x):
        return original(x, output_hidden_states=True).hidden_states

    def logits(x):
        return original(x)["logits" if classes else "pooler_output"]

    model, variables, x, want, features = compare("huggingface", original, stages, 75, logits)
    assert model.spec.encoder == {
        "name": "convnext",
        "variant": variant,
        "last_norm_eps": 1e-12,
        **TINY,
    }

    tensors, files = interop.write(model.spec, variables, "huggingface")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    auto = transformers.AutoModelForImageClassification if classes else transformers.AutoModel
    again, loading = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values()), loading
    key = "logits" if classes else "pooler_output"
    originals.close(originals.theirs(lambda x: again(x)[key], x), want, "in transformers again")
    assert interop.load(tmp_path)[0].spec == model.spec
    # Without the head the encoder is found behind its prefix.
    headless = transformers.AutoModel.from_pretrained(tmp_path)
    theirs = originals.theirs(lambda x: headless(x).pooler_output, x)
    originals.close(theirs, features.pooled, "pooled")


def test_the_exported_settings_and_processor_are_those_of_the_spec(tmp_path):
    transformers = originals.package("transformers")
    spec = Spec({"name": "convnext", "variant": "V2-T", **TINY}, classes=5, image_size=56)
    files = interop.LAYOUTS["huggingface"]["convnext"].files(spec)
    for file, content in files.items():
        (tmp_path / file).write_text(json.dumps(content))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (config.layer_norm_eps, config.image_size, config.num_labels) == (1e-6, 56, 5)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = np.zeros((128, 64, 3), np.uint8)
    image[32:96] = 255  # the middle square, of which 7 / 8 stay
    got = processor(image, return_tensors="np")["pixel_values"]
    want = (1 - np.array(spec.preprocessing.mean)) / spec.preprocessing.std
    assert got.shape == (1, 3, 56, 56)
    inside = got[0].transpose(1, 2, 0)
    np.testing.assert_allclose(inside, np.broadcast_to(want, inside.shape), atol=1e-5)


def test_the_config_beside_the_weights_says_what_shapes_cannot():
    configure = interop.LAYOUTS["huggingface"]["convnext"].configure
    spec = Spec({"name": "convnext", "last_norm_eps": 1e-12})
    assert configure(spec, {"layer_norm_eps": 1e-6}).encoder["last_norm_eps"] == 1e-6
    assert configure(spec, {"hidden_act": "gelu"}) == spec
    with pytest.raises(ValueError, match=r"hidden_act='relu': encoder.name convnext has"):
        configure(spec, {"hidden_act": "relu"})


def test_dinov3_at_huggingface_with_patches_normed_alike():
    transformers = originals.package("transformers")
    config = transformers.DINOv3ConvNextConfig(**HUGGINGFACE)
    original = originals.randomise(transformers.DINOv3ConvNextModel(config))
    tensors = originals.tensors_of(original)
    for names in (tensors, {k.removeprefix("model."): t for k, t in tensors.items()}):
        model, variables = interop.read(names)
    assert model.spec.encoder == {"name": "convnext", "variant": "T", **TINY}
    x = originals.images(75)
    _, features = originals.ours(model, variables, x, LAYERS)
    maps, pooled, tokens = originals.theirs(
        lambda x: original(x, output_hidden_states=True, return_dict=True).to_tuple()[::-1], x
    )
    for name, map in zip(LAYERS[1:], maps[1:], strict=True):
        originals.close(features.layers[name], originals.nhwc(map), name)
    originals.close(features.pooled, pooled, "pooled")
    originals.close(features.tokens, tokens[:, 1:], "patches")


def facebook_names(tensors):
    """timm's names back to those of Facebook's files, as its own filter would undo them."""
    renamed = {}
    for name, tensor in tensors.items():
        for old, new in (
            ("stem.", "downsample_layers.0."),
            (".blocks.", "."),
            ("conv_dw", "dwconv"),
            ("mlp.grn.weight", "grn.gamma"),
            ("mlp.grn.bias", "grn.beta"),
            ("mlp.fc", "pwconv"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(old, new)
        if ".downsample." in name:
            _, s, _, rest = name.split(".", 3)
            name = f"downsample_layers.{s}.{rest}"
        if "grn" in name:
            tensor = tensor.reshape(1, 1, 1, -1)
        renamed[name] = tensor.reshape(tensor.shape[:2]) if "pwconv" in name else tensor
    return renamed


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto"])
def test_facebook_files_are_what_timm_takes_them_for(name):
    """timm's own filter turns the names; the numbers are then the same model's."""
    convnext = originals.package("timm").models.convnext
    original = originals.package("timm").create_model(name, num_classes=5, **TINY)
    original = originals.randomise(original)
    files = facebook_names(originals.tensors_of(original))
    theirs = convnext.checkpoint_filter_fn(
        {k: torch.from_numpy(t) for k, t in files.items()}, original
    )
    original.load_state_dict(theirs, strict=True)
    x = originals.images(64)
    model, variables = interop.read(files)
    originals.close(originals.ours(model, variables, x)[0], originals.theirs(original, x), name)

    # DINOv3's files: the last norm twice, and no head.
    dinov3 = {k: t for k, t in files.items() if not k.startswith("head.")}
    dinov3 |= {f"norms.3.{end}": dinov3[f"norm.{end}"] for end in ("weight", "bias")}
    headless, _ = interop.read(dinov3)
    assert headless.spec.encoder == model.spec.encoder and headless.spec.classes == 0


def test_what_no_encoder_here_has_is_said():
    timm = originals.package("timm")
    small = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 40)}
    for name, settings, message in (
        ("convnext_atto_ols", small, r"stem of this convnext is not one convolution on square"),
        ("convnext_nano_ols", small, r"stem of this convnext is not one convolution on square"),
        ("convnext_large_mlp", small, r"unexpected: head.pre_logits.fc.weight"),
    ):
        tensors = originals.tensors_of(timm.create_model(name, **settings))
        with pytest.raises(ValueError, match=message):
            interop.read(tensors)
    with torch.device("meta"):
        huge = timm.create_model("convnext_xxlarge").state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in huge.items()}
    with pytest.raises(ValueError, match=r"convnext_xxlarge has norms with eps 1e-5"):
        interop.LAYOUTS["timm"]["convnext"].recognise(shapes)


@pytest.mark.parametrize(
    ("settings", "hidden", "layout", "message"),
    [
        ({"variant": "V2-T"}, 0, "torchvision", "torchvision has no convnext with encoder.variant"),
        ({"patch": 2}, 0, "torchvision", "encoder.patch=2, only with 4"),
        ({"patch": 2}, 0, "timm", "encoder.patch=2, only with 1 or 3 or 4"),
        ({"last_norm_eps": 1e-3}, 0, "timm", "encoder.last_norm_eps=0.001"),
        ({}, 7, "huggingface", "no layout of a convnext has a layer before the logits"),
    ],
)
def test_what_a_layout_cannot_say_is_refused(settings, hidden, layout, message):
    spec = Spec({"name": "convnext", **TINY, **settings}, classes=5, hidden=hidden)
    with pytest.raises(ValueError, match=message):
        interop.LAYOUTS[layout]["convnext"].rules(spec)
