"""What the README shows runs as it stands there."""

import pathlib
import subprocess
import sys

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_two_encoders_give_the_same_shapes_and_a_picture(tmp_path):
    out = tmp_path / "seen.png"
    run = subprocess.run(
        [sys.executable, "examples/two_encoders.py", "--out", out],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    for title, line in zip(("ResNet-18", "ViT-B/16"), lines, strict=False):
        assert line.startswith(f"{title}: images (1, 224, 224, 3) -> logits (1, 1000)")
    assert Image.open(out).size == (1200, 280)


@pytest.mark.slow
def test_a_kernel_is_drawn_as_nine_heads_and_they_agree(tmp_path):
    out = tmp_path / "kernel.png"
    run = subprocess.run(
        [sys.executable, "examples/attention_is_convolution.py", "--out", out],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert run.returncode == 0, run.stderr
    errors = [
        float(line.split("difference ")[1].split()[0]) for line in run.stdout.splitlines()[:3]
    ]
    assert errors[0] > 0.1 > errors[1] > 0.01 and errors[2] < 1e-6
    assert Image.open(out).size == (1040, 688)
