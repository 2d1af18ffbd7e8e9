"""CoAtNet beside timm's: the form after the paper, and those with public weights."""

import dataclasses

import numpy as np
import originals
import pytest

from vitjax import interop
from vitjax.interop import coatnet as names
from vitjax.models import coatnet

pytestmark = pytest.mark.parity

# One or two blocks of each kind; a stage of three has a stack, and so may be cut wrongly.
TINY = {"depths": (1, 2, 3, 2), "embed_dim": (16, 32, 64, 96), "num_classes": 7, "img_size": 64}
PAPER = TINY | {"stem_width": (12, 20), "head_hidden_size": 40}
RW = TINY | {"stem_width": (8, 16)}
FORMS = {
    "coatnet_1_224": PAPER,
    # LayerScale; batch norm among the attention; MLPs for positions, without act_first and with max
    # pools.
    "coatnet_3_rw_224": RW,
    "coatnet_bn_0_rw_224": RW,
    "coatnet_rmlp_nano_rw_224": RW,
    "coatnet_rmlp_1_rw_224": RW,
}


def original(architecture, **arguments):
    timm = originals.package("timm")
    return originals.randomise(timm.create_model(architecture, **arguments))


def compare(theirs, size):
    """Logits and every stage. Returns our model, its variables and logits. Scanned: fewer blocks to
    compile."""
    model, variables = interop.read(originals.tensors_of(theirs), "timm", scan=True)
    x = originals.images(size)
    logits, features = originals.ours(model, variables, x, layers=model.encoder.layers)
    originals.close(logits, originals.theirs(theirs, x), "logits")
    last, maps = originals.theirs(theirs.forward_intermediates, x)
    for name, want in zip(model.encoder.layers, maps, strict=True):
        originals.close(features.layers[name], originals.nhwc(want), name)
    originals.close(features.patches, originals.nhwc(last), "patches")
    return model, variables, logits


def exported(model, variables):
    """timm's model with what we write, and the config beside it."""
    timm = originals.package("timm")
    written, beside = interop.write(model.spec, variables, "timm")
    config = beside["config.json"]
    again = timm.create_model(config["architecture"], **config["model_args"]).eval()
    tensors = {name: originals.torch.from_numpy(array) for name, array in written.items()}
    again.load_state_dict(tensors, strict=True)
    return again, config


@pytest.mark.parametrize("architecture", FORMS)
def test_every_form_is_timms(architecture):
    theirs = original(architecture, **FORMS[architecture])
    model, variables, logits = compare(theirs, 64)
    assert model.spec.image_size == (224 if "rmlp" in architecture else 64)
    originals.comes_back(originals.tensors_of(theirs), "timm")
    spec = dataclasses.replace(model.spec, image_size=64)
    again, _ = exported(model._replace(spec=spec), variables)
    originals.close(originals.theirs(again, originals.images(64)), logits, "exported")


def test_coatnet_0_rw_224():
    theirs = original("coatnet_0_rw_224")
    model, variables, logits = compare(theirs, 224)
    assert model.spec.encoder == {"name": "coatnet", "variant": "0_rw", "scan": True}
    assert (model.spec.classes, model.spec.hidden, model.spec.image_size) == (1000, 0, 224)
    originals.comes_back(originals.tensors_of(theirs), "timm")
    again, config = exported(model, variables)
    assert config["architecture"] == "coatnet_0_rw_224"
    originals.close(originals.theirs(again, originals.images(224)), logits, "exported")


def test_where_shapes_say_too_little_the_config_beside_them_says_it():
    """Tensors of 0_rw, which strides by pooling, and of 1_rw are named alike."""
    theirs = originals.package("timm").create_model("coatnet_1_rw_224", **RW)
    tensors = originals.tensors_of(theirs)
    spec = names.recognise({name: tensor.shape for name, tensor in tensors.items()})
    assert spec.encoder["variant"] == "0_rw"
    spec = names.configure(spec, {"architecture": "coatnet_1_rw_224"})
    assert spec.encoder["variant"] == "1_rw"
    model, _ = interop.read(tensors, "timm", variant="1_rw")
    assert model.encoder.name == "coatnet 1_rw"


@pytest.mark.parametrize("name", coatnet.VARIANTS)
def test_every_variant_is_recognised(name):
    timm = originals.package("timm")
    with originals.torch.device("meta"):
        theirs = timm.create_model(f"coatnet_{name}_224")
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    spec = names.recognise(shapes)
    assert spec.encoder == {"name": "coatnet", "variant": name}
    written = {
        each
        for rule in names.rules(spec)
        for each in ([rule.theirs] if isinstance(rule.theirs, str) else rule.theirs)
    }
    assert written == set(shapes)
    given = theirs.pretrained_cfg
    assert spec.preprocessing.mean == given["mean"] and spec.preprocessing.std == given["std"]
    assert spec.preprocessing.crop == given["crop_pct"]


def test_without_a_classifier_the_tanh_layer_before_it_is_read_past():
    theirs = original("coatnet_1_224", **(PAPER | {"num_classes": 0, "head_hidden_size": 96}))
    model, variables = interop.read(originals.tensors_of(theirs), "timm")
    assert model.head is None and variables["head"] == {}
    again, _ = exported(model, variables)
    x = originals.images(64)
    features, pooled = originals.ours(model, variables, x)[1], originals.theirs(again, x)
    originals.close(np.tanh(features.pooled), pooled, "exported")
    want = originals.theirs(theirs.forward_features, x)
    originals.close(features.patches, originals.nhwc(want), "patches")


def test_the_way_out_refuses_a_head_that_timm_has_not():
    spec = names.Spec({"name": "coatnet", "variant": "0"}, classes=5)
    with pytest.raises(ValueError, match=r"variant='0' .*expected objective.head_hidden above 0"):
        names.rules(spec)
    spec = names.Spec({"name": "coatnet", "variant": "1_rw"}, classes=5, hidden=4)
    with pytest.raises(ValueError, match=r"variant='1_rw' .*expected objective.head_hidden 0"):
        names.rules(spec)
