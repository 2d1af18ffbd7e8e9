"""ConViT against timm's, with random weights."""

from functools import partial

import jax
import numpy as np
import originals
import pytest

from vitjax import interop
from vitjax.interop.layout import Spec

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def timm():
    return originals.package("timm")


def convit(timm, seed=0, **settings):
    """timm's class with sizes that all differ: 9 patches, 3 of 4 blocks gated, 4 heads of 5."""
    sizes = {"img_size": 12, "patch_size": 4, "depth": 4, "local_up_to_layer": 3, "embed_dim": 5}
    sizes |= {"num_heads": 4, "mlp_ratio": 1.5, "num_classes": 7} | settings
    sizes["norm_layer"] = partial(originals.torch.nn.LayerNorm, eps=1e-6)
    return originals.randomise(timm.models.convit.ConVit(**sizes), seed)


def agree(original, x):
    tensors = originals.tensors_of(original)
    model, variables = interop.read(tensors)
    logits, features = originals.ours(model, variables, x)
    originals.close(features.tokens, originals.theirs(original.forward_features, x), "tokens")
    originals.close(logits, originals.theirs(original, x), "logits")
    return model, variables


@pytest.mark.parametrize(("size", "name"), [("tiny", "Ti/16"), ("small", "S/16")])
def test_timm_convit_comes_in_and_goes_out(timm, size, name):
    original = originals.randomise(timm.create_model(f"convit_{size}"))
    model, variables = agree(original, originals.images(224))
    assert model.spec.encoder == {"name": "convit", "variant": name}
    assert (model.spec.classes, model.spec.image_size) == (1000, 224)
    originals.comes_back(originals.tensors_of(original), "timm")
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert count == sum(each.numel() for each in original.parameters())
    _, files = interop.write(model.spec, variables, "timm")
    assert files["config.json"]["architecture"] == f"convit_{size}"


def test_attention_of_every_block_is_timms(timm):
    original, x = convit(timm), originals.images(12, batch=2)
    model, variables = agree(original, x)
    assert model.spec.encoder["local"] == 3
    theirs = {}
    for i, block in enumerate(original.blocks[:3]):
        gated = block.attn.get_attention

        def kept(x, i=i, gated=gated):
            theirs[f"block_0{i}"] = gated(x)
            return theirs[f"block_0{i}"]

        block.attn.get_attention = kept
    originals.theirs(original, x)
    encoder = model.encoder
    inner = {"params": variables["encoder"], "stats": {}}
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(partial(encoder.attention, names=list(theirs)))(inner, x)
    assert len(theirs) == 3
    for name, want in theirs.items():
        originals.close(ours[name], want.detach().numpy(), name)


def test_gradients_are_timms(timm):
    original, x = convit(timm), originals.images(12, batch=2)
    model, variables = interop.read(originals.tensors_of(original))
    with jax.default_matmul_precision("highest"):
        grads = jax.jit(jax.grad(lambda v, x: (model.apply(v, x)[0] ** 2).sum()))(variables, x)
    (original(originals.torch.from_numpy(x).permute(0, 3, 1, 2)) ** 2).sum().backward()
    attention = grads["encoder"]["stage_1"]["blocks"]["attention"]
    for layer, block in enumerate(original.blocks[:3]):
        gate = block.attn.gating_param.grad.numpy()
        np.testing.assert_allclose(
            attention["gate"][layer], gate, atol=1e-5 * np.abs(gate).max() + 1e-7
        )
        places = block.attn.pos_proj.weight.grad.numpy()[:, ::-1].T
        got = attention["positions"]["kernel"][layer]
        np.testing.assert_allclose(got, places, atol=1e-4 * np.abs(places).max())


def test_what_timm_has_no_name_for_is_refused():
    rules, files = interop.LAYOUTS["timm"]["convit"].rules, interop.LAYOUTS["timm"]["convit"].files
    section = {"name": "convit", "variant": "S/16"}
    with pytest.raises(ValueError, match=r"^timm has no convit .*encoder.mask_token=True"):
        rules(Spec(section | {"mask_token": True}))
    with pytest.raises(ValueError, match=r"^timm has no .*objective.head_hidden=5: give"):
        rules(Spec(section, classes=7, hidden=5))
    with pytest.raises(ValueError, match=r"^timm has no convit of Size.* and patch 8, only"):
        files(Spec(section | {"variant": "S/8"}))
