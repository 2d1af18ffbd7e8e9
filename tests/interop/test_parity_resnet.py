"""ResNets, BiT and the hybrids' stem beside torchvision's, timm's and Hugging Face's own."""

import jax
import jax.numpy as jnp
import numpy as np
import originals
import pytest

from vitjax import checkpoint, interop
from vitjax.interop import bit, files, rules
from vitjax.models.weight_standardised import ResNetStem

torch = originals.torch
pytestmark = pytest.mark.parity


def same(model, variables, x, want):
    """want: what theirs gives, by our names: "logits", "pooled" or a layer."""
    logits, features = originals.ours(model, variables, x, model.encoder.layers)
    assert {*model.encoder.layers, "logits"} <= set(want)
    found = {"logits": logits, "pooled": features.pooled} | features.layers
    for name, value in want.items():
        value = originals.nhwc(value) if value.ndim == 4 else value
        originals.close(found[name], value, f"{model.encoder.name} {name}")


def load_strictly(net, tensors):
    """A fresh network of theirs with our tensors, every one of them."""
    weights = {name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}
    net.load_state_dict(weights, strict=True)
    return net.eval()


def in_stages(net):
    """torchvision's and timm's ResNet."""

    def run(x):
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        out = {"stem": x}
        for stage in (1, 2, 3, 4):
            x = out[f"stage_{stage}"] = getattr(net, f"layer{stage}")(x)
        return out | {"pooled": x.mean((2, 3)), "logits": net.fc(x.mean((2, 3)))}

    return run


@pytest.mark.parametrize("variant", ["18", "50"])
def test_torchvision(variant):
    make = getattr(originals.package("torchvision").models, f"resnet{variant}")
    net = originals.randomise(make())
    tensors, x = originals.tensors_of(net), originals.images(224)
    model, variables = interop.read(tensors)
    assert model.spec.encoder == {"name": "resnet", "variant": variant}
    want = originals.theirs(in_stages(net), x)
    originals.close(want["logits"], originals.theirs(net, x), "stage by stage")
    same(model, variables, x, want)

    out, beside = interop.write(model.spec, variables, "torchvision")
    assert beside == {}
    originals.close(originals.theirs(load_strictly(make(), out), x), want["logits"], "again")
    if variant == "18":
        originals.comes_back(tensors, "torchvision")


def test_gradients_are_torchs():
    """Of a loss on the logits, for the images and for the first kernel, batch norm as in
    evaluation."""
    net = originals.randomise(originals.package("torchvision").models.resnet18())
    model, variables = interop.read(originals.tensors_of(net))
    x = originals.images(64)

    def loss(kernel, images):
        encoder = variables["encoder"] | {"stem_conv": {"kernel": kernel}}
        logits, _ = model.apply(variables | {"encoder": encoder}, images)
        return -jax.nn.log_softmax(logits)[0, 3]

    with jax.default_matmul_precision("highest"):
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        kernel, images = gradient(jnp.asarray(variables["encoder"]["stem_conv"]["kernel"]), x)

    pixels = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    torch.nn.functional.cross_entropy(net(pixels), torch.tensor([3])).backward()
    originals.close(images, originals.nhwc(pixels.grad.numpy()), "d images")
    want = net.conv1.weight.grad.numpy().transpose(2, 3, 1, 0)
    scale = np.abs(want).max()  # of the order of the number of pixels
    originals.close(kernel / scale, want / scale, "d kernel")


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_timm(norm):
    timm = originals.package("timm")
    settings = {"num_classes": 10} | ({"norm_layer": "groupnorm"} if norm == "group" else {})
    net = originals.randomise(timm.create_model("resnet18", **settings))
    tensors, x = originals.tensors_of(net), originals.images(64)
    model, variables = interop.read(tensors)
    net.relu = net.act1
    want = originals.theirs(in_stages(net), x)
    same(model, variables, x, want)

    out, beside = interop.write(model.spec, variables, "timm")
    config = beside["config.json"]
    again = load_strictly(timm.create_model(config["architecture"], **config["model_args"]), out)
    originals.close(originals.theirs(again, x), want["logits"], "again")
    assert again.num_features == config["num_features"]
    if norm == "group":
        originals.comes_back(tensors, "timm")


HUGGINGFACE = {
    "18": {"embedding_size": 4, "hidden_sizes": [4, 8, 16, 32], "depths": [2, 2, 2, 2]},
    "50": {"embedding_size": 2, "hidden_sizes": [8, 16, 32, 64], "depths": [3, 4, 6, 3]},
}


@pytest.mark.parametrize(("variant", "kind"), [("18", "basic"), ("50", "bottleneck")])
def test_huggingface(variant, kind, tmp_path):
    transformers = originals.package("transformers")
    config = transformers.ResNetConfig(**HUGGINGFACE[variant], layer_type=kind, num_labels=7)
    net = originals.randomise(transformers.ResNetForImageClassification(config))
    net.save_pretrained(tmp_path / "theirs")
    model, variables = interop.load(tmp_path / "theirs")
    width = HUGGINGFACE[variant]["embedding_size"] / 64
    assert model.spec.encoder == {"name": "resnet", "variant": variant, "width": width}
    x = originals.images(65)

    def run(net):
        def run(x):
            out = net(x, output_hidden_states=True)
            names = ("stem", "stage_1", "stage_2", "stage_3", "stage_4")
            return {"logits": out.logits} | dict(zip(names, out.hidden_states, strict=True))

        return originals.theirs(run, x)

    want = run(net)
    same(model, variables, x, want)

    originals.comes_back(originals.tensors_of(net), "huggingface")
    (tmp_path / "ours").mkdir()
    files.write(
        tmp_path / "ours", *interop.write(model.spec, variables, "huggingface"), archive=False
    )
    auto = transformers.AutoModelForImageClassification
    again, info = auto.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    got = run(again.eval())
    for name in want:
        originals.close(got[name], want[name], f"again {name}")
    ignored = {"architectures", "transformers_version", "dtype", "problem_type", "_name_or_path"}
    assert {k: v for k, v in again.config.to_dict().items() if k not in ignored} == {
        k: v for k, v in config.to_dict().items() if k not in ignored
    }

    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    image = np.random.default_rng(0).integers(0, 256, size=(300, 400, 3), dtype=np.uint8)
    pixels = processor(image, return_tensors="np")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)


def test_huggingface_without_a_classifier(tmp_path):
    transformers = originals.package("transformers")
    config = transformers.ResNetConfig(**HUGGINGFACE["18"], layer_type="basic")
    net = originals.randomise(transformers.ResNetModel(config))
    tensors, x = originals.tensors_of(net), originals.images(65)
    originals.comes_back(tensors, "huggingface")
    model, variables = interop.read({f"resnet.{name}": t for name, t in tensors.items()})
    want = originals.theirs(lambda x: net(x).pooler_output[:, :, 0, 0], x)
    originals.close(originals.ours(model, variables, x)[1].pooled, want, "pooled")

    files.write(tmp_path, *interop.write(model.spec, variables, "huggingface"), archive=False)
    again, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is transformers.ResNetModel and not any(info.values()), info
    got = originals.theirs(lambda x: again.eval()(x).pooler_output[:, :, 0, 0], x)
    originals.close(got, want, "again")


def damp(net, **factors):
    """Scale the norms whose name ends so: with random weights of scale 1 a deep network with group
    norm multiplies a change of the input by 90, and torch's float32 is 3e-5 from its float64."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            for ending, factor in factors.items():
                if f".{ending}." in name:
                    parameter.mul_(factor)
    return net


def bit_in_stages(net):
    def run(x):
        out = {"stem": net.stem(x)}
        x = out["stem"]
        for index, stage in enumerate(net.stages):
            x = out[f"stage_{index + 1}"] = stage(x)
        x = net.norm(x)
        return out | {"pooled": x.mean((2, 3)), "logits": net.head(x)}

    return run


@pytest.mark.parametrize(
    ("architecture", "settings", "size"),
    [
        ("resnetv2_50x1_bit", {}, 224),
        ("resnetv2_50x1_bit", {"stem_chs": 32, "channels": (128, 256), "num_classes": 7}, 65),
    ],
)
def test_bit_of_timm(architecture, settings, size):
    timm = originals.package("timm")
    net = originals.randomise(timm.create_model(architecture, **settings))
    # The stream would otherwise reach 140, where a bound of 1e-4 is float32's own.
    damp(net, norm1=0.1, norm3=0.03)
    tensors, x = originals.tensors_of(net), originals.images(size)
    model, variables = interop.read(tensors)
    assert model.spec.encoder["form"] == "preact" and model.spec.encoder["name"] == "bit"
    want = originals.theirs(bit_in_stages(net), x)
    assert want["stem"].min() < 0 == want["stem"][:, :, 0].min(), "the border says nothing here"
    same(model, variables, x, want)

    out, beside = interop.write(model.spec, variables, "timm")
    config = beside["config.json"]
    assert config["architecture"] == architecture
    again = load_strictly(timm.create_model(architecture, **config["model_args"]), out)
    originals.close(originals.theirs(again, x), want["logits"], "again")
    assert again.num_features == config["num_features"]
    if settings:
        originals.comes_back(tensors, "timm")


@pytest.mark.parametrize(("blocks", "size"), [((3, 4, 9), 224), ((), 33)], ids=str)
def test_stem_of_timms_hybrids(blocks, size):
    """The backbone of vit_base_r50_s16_224, and the root alone at an odd size."""
    originals.package("timm")
    from timm.models.vision_transformer_hybrid import _resnetv2

    net = damp(originals.randomise(_resnetv2(blocks)), norm3=0.1)
    tensors, x = originals.tensors_of(net), originals.images(size)
    stem = ResNetStem(blocks, scan=False, standardise="variance")
    shapes = jax.eval_shape(lambda key: stem.init(key, x), jax.random.key(0))["params"]
    targets = {f"encoder/stem/{path}": leaf.shape for path, leaf in checkpoint.flat(shapes).items()}
    table = bit.postact_rules("encoder/stem", "", blocks, "timm")
    arrays = rules.read(table, tensors, targets)
    params = checkpoint.unflatten(arrays)["encoder"]["stem"]
    with jax.default_matmul_precision("highest"):
        got = jax.jit(stem.apply)({"params": params}, x)
    want = originals.theirs(net.forward_features if blocks else net, x)
    originals.close(got, originals.nhwc(want), f"stem {blocks}")
    written = rules.write(table, arrays)
    assert set(written) == set(tensors)
    for name in tensors:
        np.testing.assert_array_equal(written[name], tensors[name])
