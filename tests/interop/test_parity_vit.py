"""Vision Transformers of timm, torchvision and transformers, with random weights, beside ours."""

import jax
import jax.numpy as jnp
import numpy as np
import originals
import pytest

from vitjax import interop
from vitjax.interop.layout import HALF, Spec
from vitjax.ops.position import resample

pytestmark = pytest.mark.parity

# timm name, settings to make it small (None: full size), image size, its layout's count with head
# of parameters (weights.md, section 8).
TINY = {"embed_dim": 24, "depth": 3, "num_heads": 2}
TIMM = {
    "vit_base_patch16_224": ({}, 224),
    "deit3_small_patch16_224": ({"depth": 3}, 224),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 70, "depth": 3}, 70),
    "vit_giant_patch14_dinov2": ({"img_size": 28, **TINY, "mlp_ratio": 4 / 3}, 28),
    "vit_so400m_patch14_siglip_224": ({"img_size": 28, **TINY}, 28),
}


def intermediates(model, x):
    """timm's block outputs before the last norm, [B, h, w, D] each."""
    maps = originals.theirs(lambda x: model.forward_intermediates(x, intermediates_only=True), x)
    return [originals.nhwc(m) for m in maps]


def agree(model, x, layout="timm", **settings):
    """Logits and every block, theirs against ours; returns our (model, variables)."""
    tensors = originals.tensors_of(model)
    ours, variables = interop.read(tensors, layout, **settings)
    logits, features = originals.ours(ours, variables, x, layers=ours.encoder.layers)
    if logits is not None:
        originals.close(logits, originals.theirs(model, x), "logits")
    else:
        tokens = originals.theirs(model.forward_features, x)
        originals.close(features.tokens, tokens, "tokens")
        originals.close(features.pooled, originals.theirs(model, x), "pooled")
    for name, want in zip(ours.encoder.layers, intermediates(model, x), strict=True):
        originals.close(features.layers[name], want, name)
    return ours, variables


@pytest.mark.parametrize("name", TIMM)
def test_timm_gives_the_same_logits_and_blocks(name):
    timm = originals.package("timm")
    changes, size = TIMM[name]
    model = originals.randomise(timm.create_model(name, **changes))
    heads = {"heads": TINY["num_heads"]} if "num_heads" in changes else {}
    x = originals.images(size)
    ours, variables = agree(model, x, **heads)
    originals.comes_back(originals.tensors_of(model), "timm", **heads)
    # The way out names a model of timm that takes the tensors, all of them.
    tensors, files = interop.write(ours.spec, variables, "timm")
    config = files["config.json"]
    again = timm.create_model(config["architecture"], **config["model_args"]).eval()
    state = {k: originals.torch.from_numpy(v) for k, v in tensors.items()}
    again.load_state_dict(state, strict=True)
    originals.close(originals.theirs(again, x), originals.theirs(model, x), "exported")


def test_timms_hybrid():
    """A ResNet-50 before ViT-B. Undamped, its random units make a change of 1e-6 in the image 1e-4
    in the map, and torch's own float32 is 3e-5 from its float64."""
    timm = originals.package("timm")
    model = originals.randomise(timm.create_model("vit_base_r50_s16_224", num_classes=1000))
    with originals.torch.no_grad():
        for name, parameter in model.patch_embed.backbone.named_parameters():
            if ".norm3." in name:
                parameter.mul_(0.1)
    ours, _ = agree(model, originals.images(224))
    assert ours.spec.encoder["variant"] == "R50+B/16"
    originals.comes_back(originals.tensors_of(model), "timm")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_large_patch14_dinov2", 518),
        ("vit_large_patch14_dinov2", 224),
        ("vit_large_patch14_reg4_dinov2", 224),
    ],
)
def test_dinov2_large_at_its_size_and_at_another(name, size):
    timm = originals.package("timm")
    model = originals.randomise(timm.create_model(name, dynamic_img_size=True))
    agree(model, originals.images(size))


def test_torchvision():
    torchvision = originals.package("torchvision")
    model = originals.randomise(
        torchvision.models.VisionTransformer(32, 8, 3, 4, 64, 96, num_classes=5)
    )
    tensors, x = originals.tensors_of(model), originals.images(32)
    ours, variables = interop.read(tensors, heads=4)
    assert ours.spec.classes == 5
    logits, features = originals.ours(ours, variables, x)
    originals.close(logits, originals.theirs(model, x), "logits")
    originals.close(
        features.tokens, originals.theirs(lambda x: model.encoder(embedded(model, x)), x), "tokens"
    )
    originals.comes_back(tensors, "torchvision", heads=4)


def embedded(model, x):
    patches = model._process_input(x)
    return originals.torch.cat([model.class_token.expand(len(x), -1, -1), patches], dim=1)


def hf(kind, head, **config):
    transformers = originals.package("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, **config
    )
    name = f"{kind}ForImageClassification" if head else f"{kind}Model"
    return getattr(transformers, name)(config)


HUGGINGFACE = {
    "ViT": {"intermediate_size": 72, "image_size": 32, "patch_size": 8, "num_labels": 5},
    "Dinov2": {"image_size": 28, "patch_size": 7, "num_labels": 5},
    "Dinov2WithRegisters": {"image_size": 28, "patch_size": 7, "num_labels": 5},
}


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("kind", HUGGINGFACE)
@pytest.mark.parametrize("size", [1, 1.5])
def test_huggingface_there_and_back(kind, head, size, tmp_path):
    """The folder that transformers saves comes in; the folder that we write, Auto classes load."""
    transformers = originals.package("transformers")
    settings = HUGGINGFACE[kind]
    model = originals.randomise(hf(kind, head, **settings))
    model.save_pretrained(tmp_path / "theirs")
    x = originals.images(int(settings["image_size"] * size))
    ours, variables = interop.load(tmp_path / "theirs")
    logits, features = originals.ours(ours, variables, x, layers=ours.encoder.layers)
    extra = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    output = originals.theirs(lambda x: dict(model(x, output_hidden_states=True, **extra)), x)
    if head:
        originals.close(logits, output["logits"], "logits")
    else:
        originals.close(features.tokens, output["last_hidden_state"], "tokens")
    for name, want in zip(ours.encoder.layers, output["hidden_states"][1:], strict=True):
        got = features.layers[name].reshape(1, -1, 32)
        originals.close(got, want[:, ours.encoder.prefix :], name)
    if size != 1:
        return
    interop.save(ours.spec, variables, "huggingface", tmp_path / "ours")
    auto = transformers.AutoModelForImageClassification if head else transformers.AutoModel
    again = auto.from_pretrained(tmp_path / "ours").eval()
    key = "logits" if head else "last_hidden_state"
    originals.close(originals.theirs(lambda x: again(x)[key], x), output[key], "exported")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours")
    side = settings["image_size"]
    picture = np.random.RandomState(0).randint(0, 256, (40, 60, 3), np.uint8)
    assert processor(picture, return_tensors="np")["pixel_values"].shape == (1, 3, side, side)


@pytest.mark.parametrize("gated", [False, True])
def test_dinov3(gated, tmp_path):
    transformers = originals.package("transformers")
    model = originals.randomise(
        hf(
            "DINOv3ViT",
            False,
            intermediate_size=40,
            image_size=64,
            patch_size=8,
            num_register_tokens=4,
            use_gated_mlp=gated,
            hidden_act="silu" if gated else "gelu",
        )
    )
    model.save_pretrained(tmp_path / "theirs")
    for size in (64, 40):
        x = originals.images(size)
        ours, variables = interop.load(tmp_path / "theirs")
        _, features = originals.ours(ours, variables, x, layers=ours.encoder.layers)
        output = originals.theirs(lambda x: dict(model(x, output_hidden_states=True)), x)
        originals.close(features.tokens, output["last_hidden_state"], "tokens")
        hidden = output["hidden_states"][1:]
        for name, want in list(zip(ours.encoder.layers, hidden, strict=True))[:-1]:
            got = features.layers[name].reshape(1, -1, 32)
            originals.close(got, want[:, ours.encoder.prefix :], name)
    interop.save(ours.spec, variables, "huggingface", tmp_path / "ours")
    again = transformers.AutoModel.from_pretrained(tmp_path / "ours").eval()
    got = originals.theirs(lambda x: again(x)["last_hidden_state"], x)
    originals.close(got, output["last_hidden_state"], "exported")


def test_mae_comes_in_without_its_decoder(tmp_path):
    transformers = originals.package("transformers")
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=24,
        mask_ratio=0.0,
    )
    model = originals.randomise(transformers.ViTMAEForPreTraining(config))
    model.save_pretrained(tmp_path)
    ours, variables = interop.load(tmp_path)
    x = originals.images(32)
    _, features = originals.ours(ours, variables, x)
    noise = originals.torch.arange(16.0)[None]  # which patches come first: all stay, in order
    want = originals.theirs(lambda x: model.vit(x, noise=noise)["last_hidden_state"], x)
    originals.close(features.tokens, want, "tokens")


def test_gradients_are_timms():
    """Of the squared logits, with respect to the images and to weights deep inside."""
    timm, torch = originals.package("timm"), originals.torch
    model = originals.randomise(
        timm.create_model("deit3_small_patch16_224", img_size=32, **TINY, num_classes=7)
    )
    x = originals.images(32)
    there = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_()
    (model(there) ** 2).sum().backward()
    ours, variables = interop.read(originals.tensors_of(model), "timm", heads=2)

    def loss(variables, x):
        return (ours.apply(variables, x)[0] ** 2).sum()

    weights, pixels = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, jnp.asarray(x))
    originals.close(pixels, originals.nhwc(there.grad.numpy()), "images")
    mine, _ = interop.write(ours.spec, weights, "timm")
    for name, parameter in model.named_parameters():
        originals.close(mine[name], parameter.grad.numpy(), name)


@pytest.mark.parametrize(
    ("variant", "size", "architecture"),
    [("S/8", 32, "vit_small_patch16_224"), ("R26+S/32", 64, "vit_small_r26_s32_224")],
)
def test_timms_loader_reads_our_npz(variant, size, architecture, tmp_path):
    """timm has a reader of big_vision's files of its own."""
    timm = originals.package("timm")
    shape = {"width": 32, "depth": 2, "mlp": 128, "heads": 2}
    encoder = {"name": "vit", "variant": variant, "pool": "cls", "class_position": True} | shape
    spec = Spec(encoder, classes=5, image_size=size, preprocessing=HALF)
    model = interop.build(spec)
    rng = np.random.RandomState(0)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: originals.draw(rng, _torch_name(path), leaf.shape), model.shapes()
    )
    interop.save(spec, variables, "big_vision", tmp_path / "out")
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 4, "img_size": size}
    if "+" not in variant:
        arguments["patch_size"] = 8
    theirs = timm.create_model(architecture, num_classes=5, act_layer="gelu_tanh", **arguments)
    theirs.eval().load_pretrained(str(tmp_path / "out" / "model.npz"))
    x = originals.images(size)
    logits, _ = originals.ours(model, variables, x)
    originals.close(logits, originals.theirs(theirs, x), "logits")


def _torch_name(path):
    """What originals.draw knows it as: scales near 1, all else small."""
    return "norm.weight" if path[-1].key == "scale" else "bias"


@pytest.mark.parametrize(("h", "w"), [(16, 16), (9, 44)])
def test_the_tables_of_dinov2_and_timm_are_moved_as_torch_moves_them(h, w):
    """DINOv2's first models scale by (n + 0.1) / 37 without a low-pass; those with registers, and
    timm, ask for the size, with one."""
    torch = originals.torch
    table = np.random.RandomState(0).normal(size=(37, 37, 5)).astype(np.float32)
    there = torch.from_numpy(table).permute(2, 0, 1)[None]
    shift = {"scale_factor": ((h + 0.1) / 37, (w + 0.1) / 37), "antialias": False}
    size = {"size": (h, w), "antialias": True}
    for method, how in (("cubic_offset", shift), ("cubic_antialias", size)):
        want = torch.nn.functional.interpolate(there, mode="bicubic", **how)[0]
        got = resample(jnp.asarray(table), h, w, method)
        originals.close(got, want.permute(1, 2, 0).numpy(), method)
