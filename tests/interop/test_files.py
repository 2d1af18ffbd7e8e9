"""What a file holds is read by name, and only read: nothing in it runs."""

import json
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from vitjax.interop import files

A = np.arange(6, dtype=np.float32).reshape(2, 3) / 3
B = np.arange(4, dtype=np.float32)


def same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_every_type_comes_as_it_was_stored(tmp_path, suffix):
    kinds = (np.float32, np.float16, ml_dtypes.bfloat16, np.int64)
    arrays = {f"x.{i}": A.astype(kind) for i, kind in enumerate(kinds)}
    file = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(file, **arrays)  # NumPy stores bfloat16 as void
        assert np.load(file)["x.2"].dtype == np.dtype("V2")
    else:
        save_file(arrays, file)
    got = files.read(file)
    same({name: got[name] for name in arrays}, arrays)


@pytest.mark.parametrize("root", ["", "params/", "opt/target/"])
def test_the_parameters_of_a_tree_are_found_at_its_root(tmp_path, root):
    beside = {"opt/state/step": B, "chrono/time": B} if root else {}
    np.savez(tmp_path / "x.npz", **{f"{root}head/kernel": A, f"{root}cls": B}, **beside)
    same(files.read(tmp_path / "x.npz"), {"head/kernel": A, "cls": B})


def test_of_two_towers_one_is_taken_by_name(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, **{"params/img/cls": A, "params/txt/cls": B, "params/t": B})
    same(files.read(f"{file}:img"), {"cls": A})
    same(files.read(f"{file}:txt"), {"cls": B})
    with pytest.raises(ValueError, match=rf"two towers, img, txt: say {file}:img$"):
        files.read(file)
    with pytest.raises(ValueError, match=r"no tower 'image', only img, txt$"):
        files.read(f"{file}:image")


def test_shards_are_read_as_their_index_says(tmp_path):
    save_file({"a": A}, tmp_path / "model-1.safetensors")
    save_file({"b": B}, tmp_path / "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    place = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": place}))
    same(files.read(tmp_path), {"a": A, "b": B})
    index.write_text(json.dumps({"weight_map": place | {"c": "model-2.safetensors"}}))
    with pytest.raises(ValueError, match=r"lacks tensors that .* names: c$"):
        files.read(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors, which .* names$"):
        files.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("blocks.0.norm1.weight", "blocks.0.norm1.weight"),
        ("blocks.0.11.norm1.weight", "blocks.11.norm1.weight"),
        ("teacher.backbone.blocks.2.7.ls1.gamma", "blocks.7.ls1.gamma"),
        ("model.teacher.backbone._fsdp_wrapped_module.norm.bias", "norm.bias"),
        ("state_dict.module.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("model_state_dict._orig_mod.fc.weight", "fc.weight"),
        ("module.model.blocks.1._checkpoint_wrapped_module.norm1.bias", "blocks.1.norm1.bias"),
        ("student.backbone.cls_token", "cls_token"),
        ("stages.0.blocks.1.conv_dw.weight", "stages.0.blocks.1.conv_dw.weight"),
        ("features.1.0.block.0.weight", "features.1.0.block.0.weight"),
        (
            "Transformer/encoderblock_0/LayerNorm_0/bias",
            "Transformer/encoderblock_0/LayerNorm_0/bias",
        ),
    ],
)
def test_a_name_in_a_training_checkpoint_is_that_in_the_model(name, clean):
    assert list(files.clean({name: A})) == [clean]


def test_what_lies_beside_the_weights_in_a_training_checkpoint_is_left(caplog):
    tensors = {
        "teacher.backbone.norm.weight": A,
        "teacher.dino_head.mlp.0.weight": B,
        "student.backbone.norm.weight": B,
        "optimizer.state.0.exp_avg": B,
    }
    same(files.clean(tensors), {"norm.weight": A})
    assert "teacher is taken, not student, optimizer" in caplog.text


def test_blocks_are_renumbered_only_where_that_keeps_them_apart():
    tensors = {"blocks.0.0.weight": A, "blocks.1.0.weight": B}
    same(files.clean(tensors), tensors)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_is_unpickled(tmp_path):
    fuse = tmp_path / "fuse"
    pickled = pickle.dumps(Bomb(fuse))
    for name in ("a.npz", "b.pkl", "c.pickle", "d.safetensors", "e.npy"):
        (tmp_path / name).write_bytes(pickled)
    np.savez(tmp_path / "f.npz", x=np.array([Bomb(fuse)], dtype=object))
    for file in sorted(tmp_path.glob("*.*")):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            files.read(file)
        assert str(file) in str(error.value) and not fuse.exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.npz"])
def test_a_file_cut_off_anywhere_is_one_line(tmp_path, name):
    file = tmp_path / name
    if name.endswith("npz"):
        np.savez(file, a=A, b=B)
    else:
        save_file({"a": A, "b": B}, file)
    content = file.read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"^{file} cannot be read: [^\n]*$"):
            files.read(file)
    flipped = content.index(B.tobytes())
    file.write_bytes(content[:flipped] + b"?" + content[flipped + 1 :])
    if name.endswith("npz"):  # a zip archive has checksums, safetensors has none
        with pytest.raises(ValueError, match="cannot be read: Bad CRC-32"):
            files.read(file)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("nowhere.npz", "there is no file or folder"),
        ("x.msgpack", "expected .safetensors, .npz, .pth, .pt, .bin or a folder"),
        ("", "holds no weights: expected one of model.safetensors"),
        ("empty.safetensors", "holds no tensors"),
        ("array.npz", "array.npz cannot be read: File is not a zip file"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, named):
    (tmp_path / "x.msgpack").write_bytes(b"x")
    save_file({}, tmp_path / "empty.safetensors")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, A)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        files.read(tmp_path / name)
    assert named in str(error.value)


def test_a_pth_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(OSError, match=r"^[^\n]*pip install 'vitjax\[torch\]'[^\n]*$"):
        files.read(tmp_path / "x.pth")


@pytest.mark.parity
def test_torch_reads_weights_and_runs_nothing(tmp_path):
    import argparse

    torch = pytest.importorskip("torch", reason="needs the torch extra")
    file = tmp_path / "x.pth"
    weights = {"module.a": torch.from_numpy(A), "module.b": torch.from_numpy(B).bfloat16()}
    content = {"model": weights, "optimizer": {"state": {0: {"m": torch.zeros(3)}}}, "epoch": 3}
    torch.save(content | {"args": argparse.Namespace(lr=0.1)}, file)
    same(files.read(file), {"a": A, "b": B})
    fuse = tmp_path / "fuse"
    torch.save({"model": weights, "args": Bomb(fuse)}, file)
    with pytest.raises(ValueError, match=rf"^{file} cannot be read: torch's weights-only [^\n]*$"):
        files.read(file)
    assert not fuse.exists()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"^{file} cannot be read: [^\n]*$"):
        files.read(file)


# As transformers 5.23 and timm 1.0.31 write them.
MEAN, STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]
COLOURS = {"image_mean": MEAN, "image_std": STD}


@pytest.mark.parametrize(
    ("config", "preprocessor", "expected", "size"),
    [
        ({}, {}, {}, None),
        (
            {},
            {"size": {"height": 224, "width": 224}, "resample": 2, "do_normalize": True, **COLOURS},
            {"crop": 1.0, "resize": "bilinear", "mean": tuple(MEAN), "std": tuple(STD)},
            224,
        ),
        (
            {},
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "resample": 3,
            },
            {"crop": 0.875, "resize": "bicubic"},
            224,
        ),
        ({}, {"size": {"shortest_edge": 224}, "crop_pct": 0.9}, {"crop": 0.9}, 224),
        ({}, {"size": {"shortest_edge": 384}, "crop_pct": 0.9}, {"crop": 1.0}, 384),
        (
            {},
            {"size": 256, "do_center_crop": False, "do_normalize": False, **COLOURS},
            {"crop": 1.0, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
            256,
        ),
        (
            {
                "pretrained_cfg": {
                    "mean": MEAN,
                    "crop_pct": 0.95,
                    "interpolation": "bicubic",
                    "input_size": [3, 288, 288],
                }
            },
            {},
            {"mean": tuple(MEAN), "crop": 0.95, "resize": "bicubic"},
            288,
        ),
        ({"pretrained_cfg": {"interpolation": "random"}}, {}, {}, None),
    ],
)
def test_the_files_beside_the_weights_say_how_images_are_prepared(
    config, preprocessor, expected, size
):
    assert files.preprocessing_of(config, preprocessor) == expected
    assert files.image_size_of(config, preprocessor) == size


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyError), files.whole(out) as draft:
        (draft / "half").write_text("x")
        raise KeyError
    assert not out.exists() and not list(out.parent.iterdir())
    with files.whole(out) as draft:
        files.write(draft, {"a": A}, {"config.json": {"x": 1}}, archive=False)
        assert not out.exists()
    same(files.read(out), {"a": A})
    assert files.settings_beside(out) == ({"x": 1}, {})
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(ValueError, match=r"--out=.* is not empty: give a new folder$"):
        files.require_new(out)


def test_an_archive_is_read_back_bit_for_bit(tmp_path):
    tensors = {"Transformer/norm/bias": B, "head/kernel": A}
    files.write(tmp_path, tensors, {}, archive=True)
    same(files.read(tmp_path), tensors)
