"""AlexNet as torchvision names it; the other classic networks have no published weights."""

from vitjax.interop.layout import Layout, Preprocessing, Spec, require
from vitjax.interop.rules import CONV, LINEAR, VECTOR, Form, Rule

# O outputs.

CELLS, CHANNELS = 6, 256  # of the map that the first dense layer reads


def _flattened(tensor, shapes):
    """[O, C * h * w] -> [h * w * C, O]: theirs flattens channels first, ours channels last."""
    map = tensor.reshape(-1, CHANNELS, CELLS, CELLS).transpose(2, 3, 1, 0)
    return (map.reshape(shapes[0]),)


def _channels_first(arrays):
    map = arrays[0].reshape(CELLS, CELLS, CHANNELS, -1)
    return map.transpose(3, 2, 0, 1).reshape(map.shape[-1], -1)


FIRST_DENSE = Form(_flattened, _channels_first)
CONVS = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}


def _recognise(shapes):
    first, dense = shapes.get("features.0.weight"), shapes.get("classifier.1.weight")
    if first != (64, 3, 11, 11) or dense != (4096, CHANNELS * CELLS**2):
        return None
    last = "classifier.6.weight"
    return Spec(
        {"name": "classic", "variant": "alexnet"},
        classes=shapes[last][0] if last in shapes else 0,
        preprocessing=Preprocessing(resize="bilinear"),
    )


def _rules(spec):
    require(spec, "torchvision", variant=("alexnet",))
    if spec.hidden:
        raise ValueError(
            f"torchvision has no alexnet with another hidden layer in its head, this one has "
            f"objective.head_hidden={spec.hidden}: give another --to"
        )
    layers = [(f"encoder/{name}", f"features.{i}", CONV) for name, i in CONVS.items()]
    layers += [("encoder/mlp/up", "classifier.1", FIRST_DENSE)]
    layers += [("encoder/mlp/down", "classifier.4", LINEAR)]
    if spec.classes:
        layers += [("head/logits", "classifier.6", LINEAR)]
    rules = []
    for ours, theirs, form in layers:
        rules += [Rule(f"{ours}/kernel", f"{theirs}.weight", form)]
        rules += [Rule(f"{ours}/bias", f"{theirs}.bias", VECTOR)]
    return rules


LAYOUTS = {"torchvision": {"classic": Layout(_recognise, _rules, files=lambda spec: {})}}
