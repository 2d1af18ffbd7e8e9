"""A model as one file that runs without vitjax, on any number of images."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from vitjax.interop import stablehlo
from vitjax.interop.layout import Spec
from vitjax.interop.model import build

VIT = {"name": "vit", "variant": "Ti/4", "width": 16, "depth": 2, "mlp": 24, "heads": 2}
RESNET = {"name": "resnet", "variant": "18", "width": 0.0625}

# All that a user needs: jax and NumPy.
ALONE = """
import sys, numpy, jax
from jax import export
program = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
for name in sys.argv[2:]:
    numpy.save(name + ".out.npy", program.call(numpy.load(name)))
assert not [name for name in sys.modules if name.partition(".")[0] in ("vitjax", "flax")]
"""


@pytest.mark.parametrize(
    ("encoder", "classes", "output"), [(VIT, 3, "logits"), (RESNET, 0, "pooled")]
)
def test_another_process_gets_the_same_numbers_for_any_batch(tmp_path, encoder, classes, output):
    model, rng = build(Spec(encoder, classes=classes, image_size=32)), np.random.RandomState(0)
    variables = jax.tree.map(
        lambda leaf: np.abs(0.2 + 0.1 * rng.normal(size=leaf.shape)).astype(np.float32),
        model.shapes(),
    )
    stablehlo.write(model, variables, tmp_path)
    files = []
    for batch in (1, 3):
        files.append(tmp_path / f"{batch}.npy")
        np.save(files[-1], rng.normal(size=(batch, 32, 32, 3)).astype(np.float32))
    argv = [sys.executable, "-c", ALONE, tmp_path / stablehlo.FILE, *files]
    subprocess.run(argv, check=True, cwd=tmp_path)

    signature = json.loads((tmp_path / stablehlo.SIGNATURE).read_text())
    assert signature["platforms"] == ["cpu", "tpu", "cuda"]
    assert signature["input"]["shape"] == ["b", "32", "32", "3"]
    assert signature["output"]["name"] == output
    for file in files:
        logits, features = model.apply(variables, np.load(file))
        want = np.asarray(features.pooled if logits is None else logits)
        got = np.load(f"{file}.out.npy")
        assert signature["output"]["shape"] == ["b", str(want.shape[1])]
        assert got.shape == want.shape and np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_weights_too_large_for_one_file_are_one_line(monkeypatch):
    model = build(Spec(VIT, image_size=8))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), model.shapes())
    monkeypatch.setattr(stablehlo, "LIMIT", 100)
    with pytest.raises(ValueError, match=r"^--to stablehlo: [^\n]* give another --to$"):
        stablehlo.export(model, variables)
