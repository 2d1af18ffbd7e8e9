"""MLP-Mixer against timm, its big_vision names, and AlexNet against torchvision."""

import json
from functools import partial

import jax
import numpy as np
import originals
import pytest
from safetensors.numpy import save_file

from vitjax import interop
from vitjax.interop.layout import Spec

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def timm():
    return originals.package("timm")


def mixer(timm, seed=0, **settings):
    """timm's class with sizes that all differ: 9 patches."""
    sizes = {"img_size": 12, "patch_size": 4, "num_blocks": 3, "embed_dim": 20, "num_classes": 7}
    sizes |= {"mlp_ratio": (0.3, 2.0)} | settings
    return originals.randomise(timm.models.mlp_mixer.MlpMixer(**sizes), seed)


def agree(original, model, variables, x, blocks):
    """Logits, and the maps of the blocks named by number, against timm's. Returns our logits."""
    names = tuple(f"block_{i:02d}" for i in blocks)
    logits, features = originals.ours(model, variables, x, names)
    maps = originals.theirs(
        partial(original.forward_intermediates, indices=blocks, intermediates_only=True), x
    )
    for name, map in zip(names, maps, strict=True):
        originals.close(features.layers[name], originals.nhwc(map), name)
    originals.close(features.tokens, originals.theirs(original.forward_features, x), "tokens")
    originals.close(logits, originals.theirs(original, x), "logits")
    return logits


def test_timm_mixer_b16_224_comes_in_and_goes_out(timm):
    original = originals.randomise(timm.create_model("mixer_b16_224"))
    tensors = originals.tensors_of(original)
    model, variables = interop.read(tensors)
    assert model.spec.encoder == {"name": "mixer", "activation": "gelu", "variant": "B/16"}
    assert (model.spec.classes, model.spec.image_size) == (1000, 224)
    agree(original, model, variables, originals.images(224), [0, 5, 11])
    originals.comes_back(tensors, "timm")


def test_a_folder_for_timm_loads_strictly_and_gives_the_same_logits(timm, tmp_path):
    original = timm.create_model("mixer_s32_224", img_size=96, num_classes=7)
    originals.randomise(original)
    model, variables = interop.read(originals.tensors_of(original))
    x = originals.images(96, batch=2)
    agree(original, model, variables, x, [0, 7])

    tensors, files = interop.write(model.spec, variables, "timm")
    save_file(tensors, tmp_path / "model.safetensors")
    config = files["config.json"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    strict = timm.create_model(config["architecture"], **config["model_args"]).eval()
    strict.load_state_dict({n: originals.torch.from_numpy(t) for n, t in tensors.items()})
    back = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    for loaded in (strict, back):
        originals.close(originals.theirs(loaded, x), originals.theirs(original, x), "back")
    assert list(back.pretrained_cfg["mean"]) == [0.5, 0.5, 0.5]
    assert list(back.pretrained_cfg["input_size"]) == [3, 96, 96]


def test_other_sizes_come_in_and_cannot_go_to_timm(timm):
    original = mixer(timm)
    model, variables = interop.read(originals.tensors_of(original))
    sizes = {"width": 20, "depth": 3, "token_mlp": 6, "channel_mlp": 40}
    assert model.spec.encoder == {"name": "mixer", "activation": "gelu", "variant": "S/4"} | sizes
    agree(original, model, variables, originals.images(12, batch=2), [0, 1, 2])
    with pytest.raises(ValueError, match=r"^timm has no mixer of Size\(width=20.* --to$"):
        interop.write(model.spec, variables, "timm")
    with pytest.raises(ValueError, match=r"^big_vision has no mixer with encoder.activation='gelu"):
        interop.write(model.spec, variables, "big_vision")


def test_without_classes_there_is_no_head(timm):
    original = mixer(timm, num_classes=0)
    model, variables = interop.read(originals.tensors_of(original))
    x = originals.images(12)
    logits, features = originals.ours(model, variables, x)
    assert logits is None and variables["head"] == {}
    originals.close(features.pooled, originals.theirs(original, x), "pooled")


def test_gradients_are_timms(timm):
    original = mixer(timm)
    model, variables = interop.read(originals.tensors_of(original))
    x = originals.images(12, batch=2)
    with jax.default_matmul_precision("highest"):
        grads = jax.jit(jax.grad(lambda v, x: (model.apply(v, x)[0] ** 2).sum()))(variables, x)
    (original(originals.torch.from_numpy(x).permute(0, 3, 1, 2)) ** 2).sum().backward()
    blocks = grads["encoder"]["blocks"]
    for layer, block in enumerate(original.blocks):
        up = block.mlp_tokens.fc1.weight.grad.numpy().T
        got = blocks["token_mlp"]["up"]["kernel"][layer]
        np.testing.assert_allclose(got, up, atol=1e-5 * np.abs(up).max())
    stem = original.stem.proj.weight.grad.numpy().transpose(2, 3, 1, 0)
    got = grads["encoder"]["embedding"]["kernel"]
    np.testing.assert_allclose(got, stem, atol=1e-5 * np.abs(stem).max())


def test_a_gated_mixer_and_a_flat_image_are_refused(timm):
    gated = timm.models.mlp_mixer.MlpMixer(
        img_size=12, patch_size=4, num_blocks=1, embed_dim=20, mlp_layer=timm.layers.GluMlp
    )
    with pytest.raises(ValueError, match="are of no encoder"):
        interop.read(originals.tensors_of(gated))
    with pytest.raises(ValueError, match=r"^token mixing of 6 patches: only square images"):
        interop.read(originals.tensors_of(mixer(timm, img_size=(8, 12))))


def big_vision_tensors(original):
    """timm's weights under the names of big_vision's mlp_mixer.py, kernels as Flax has them."""
    theirs = originals.tensors_of(original)
    tensors = {"stem/kernel": theirs["stem.proj.weight"].transpose(2, 3, 1, 0)}
    tensors["stem/bias"] = theirs["stem.proj.bias"]
    pairs = [("norm", "pre_head_layer_norm", "scale"), ("head", "head", "kernel")]
    for i in range(len(original.blocks)):
        pairs += [
            (f"blocks.{i}.norm1", f"MixerBlock_{i}/LayerNorm_0", "scale"),
            (f"blocks.{i}.norm2", f"MixerBlock_{i}/LayerNorm_1", "scale"),
            (f"blocks.{i}.mlp_tokens.fc1", f"MixerBlock_{i}/token_mixing/Dense_0", "kernel"),
            (f"blocks.{i}.mlp_tokens.fc2", f"MixerBlock_{i}/token_mixing/Dense_1", "kernel"),
            (f"blocks.{i}.mlp_channels.fc1", f"MixerBlock_{i}/channel_mixing/Dense_0", "kernel"),
            (f"blocks.{i}.mlp_channels.fc2", f"MixerBlock_{i}/channel_mixing/Dense_1", "kernel"),
        ]
    for name, key, leaf in pairs:
        tensors[f"{key}/{leaf}"] = theirs[f"{name}.weight"].T
        tensors[f"{key}/bias"] = theirs[f"{name}.bias"]
    return tensors


def tanh_mixer(timm):
    return mixer(timm, act_layer=partial(originals.torch.nn.GELU, approximate="tanh"))


def test_big_vision_names_come_in_and_go_out_with_the_tanh_gelu(timm):
    original = tanh_mixer(timm)
    tensors = big_vision_tensors(original)
    model, variables = interop.read(tensors)
    assert model.spec.encoder["activation"] == "gelu_tanh"
    assert model.spec.preprocessing.mean == (0.5, 0.5, 0.5)
    agree(original, model, variables, 2 * originals.images(12, batch=2), [0, 1, 2])
    originals.comes_back(tensors, "big_vision")
    with pytest.raises(ValueError, match=r"^timm has no mixer"):
        interop.write(model.spec, variables, "timm")


def old(tensors, numbers):
    """The names of the files of the paper; numbers: of the modules in a block."""
    first, token, second, channel = numbers
    words = [
        ("pre_head_layer_norm/", "Mixer/encoder_norm/"),
        ("stem/", "embedding/"),
        ("MixerBlock_", "Mixer/encoderblock_"),
        ("LayerNorm_1/", "LayerNorm_second/"),
        ("LayerNorm_0/", f"LayerNorm_{first}/"),
        ("LayerNorm_second/", f"LayerNorm_{second}/"),
        ("token_mixing/", f"token_mixing_phase_{token}/"),
        ("channel_mixing/", f"channel_mixing_phase_{channel}/"),
        *((f"Dense_{i}/{leaf}", f"{leaf}{i + 1}") for i in (0, 1) for leaf in ("kernel", "bias")),
    ]
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in words:
            name = name.replace(new, before)
        renamed[name] = tensor[None] if "_phase_" in name else tensor
    return renamed


@pytest.mark.parametrize("numbers", [(0, 0, 1, 0), (0, 1, 2, 3)])
@pytest.mark.parametrize("root", ["", "params/", "opt/target/"])
def test_older_big_vision_files_are_read(timm, numbers, root):
    tensors = big_vision_tensors(tanh_mixer(timm))
    _, want = interop.read(tensors)
    renamed = {root + name: tensor for name, tensor in old(tensors, numbers).items()}
    assert f"{root}Mixer/encoderblock_2/token_mixing_phase_{numbers[1]}/bias2" in renamed
    renamed |= {"opt/state/step": np.zeros(())} if root.startswith("opt") else {}
    model, got = interop.read(renamed, "big_vision")
    assert model.spec.encoder["depth"] == 3
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize(
    ("layout", "encoder"),
    [
        ("timm", {"name": "mixer", "variant": "S/32", "activation": "gelu"}),
        ("big_vision", {"name": "mixer", "variant": "S/32"}),
        ("torchvision", {"name": "classic", "variant": "alexnet"}),
    ],
)
def test_a_head_with_a_hidden_layer_has_no_names(layout, encoder):
    spec = Spec(encoder, classes=7, hidden=5)
    with pytest.raises(ValueError, match=f"^{layout} has no .*objective.head_hidden=5: give"):
        interop.LAYOUTS[layout][encoder["name"]].rules(spec)


def test_other_classic_networks_have_no_names():
    rules = interop.LAYOUTS["torchvision"]["classic"].rules
    with pytest.raises(ValueError, match=r"^torchvision has no classic with encoder.variant='len"):
        rules(Spec({"name": "classic", "variant": "lenet5"}))


def test_torchvision_alexnet_comes_in_and_goes_out():
    original = originals.randomise(originals.package("torchvision").models.alexnet())
    tensors = originals.tensors_of(original)
    model, variables = interop.read(tensors)
    assert model.spec.encoder == {"name": "classic", "variant": "alexnet"}
    x = originals.images(224)
    logits, features = originals.ours(model, variables, x, model.encoder.layers)
    ends = {"conv1": 3, "conv2": 6, "conv3": 8, "conv4": 10, "conv5": 13}
    for name, end in ends.items():
        want = originals.nhwc(originals.theirs(original.features[:end], x))
        originals.close(features.layers[name], want, name)
    originals.close(logits, originals.theirs(original, x), "logits")

    without = original.classifier[:-1]

    def hidden(x):
        return without(originals.torch.flatten(original.avgpool(original.features(x)), 1))

    originals.close(features.pooled, originals.theirs(hidden, x), "pooled")
    for size in (63, 150):  # maps of 1 and 3 cells, averaged to 6
        small = originals.images(size)
        logits, _ = originals.ours(model, variables, small)
        originals.close(logits, originals.theirs(original, small), f"logits at {size}")

    exported, files = interop.write(model.spec, variables, "torchvision")
    assert files == {} and set(exported) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(exported[name], tensor, err_msg=name)
    original.load_state_dict({n: originals.torch.from_numpy(t) for n, t in exported.items()})
