"""A checkpoint is trusted only as it was written, and goes onto any mesh."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from vitjax import checkpoint
from vitjax.sharding import mesh as mesh_lib
from vitjax.train.state import State

WHOLE = P()


def state(value, mesh, spec=WHOLE):
    array = jnp.arange(48, dtype=jnp.float32).reshape(6, 8) + value
    params = {"encoder": {"kernel": jax.device_put(array, NamedSharding(mesh, spec))}}
    return State(jnp.int32(value), params, {"mu": params}, {"stats": {}})


def target(tree, mesh, spec=WHOLE):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, spec if x.ndim else P())
        ),
        tree,
    )


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(data=4, model=2)


@pytest.fixture
def saved(tmp_path, mesh):
    """A folder with checkpoints of steps 1, 2, 3."""
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step, mesh), {"position": 10 * step}, {})
    checkpoints.close()
    return tmp_path / "checkpoints"


def test_what_was_saved_comes_back_on_another_mesh(tmp_path, mesh):
    first = checkpoint.Checkpoints(tmp_path)
    before = state(5, mesh, P("model", None))
    first.save(5, before, {"position": 7}, {})
    first.close()
    other = mesh_lib.make_mesh(data=2, model=1, devices=jax.devices()[:2])
    checkpoints = checkpoint.Checkpoints(tmp_path)
    after, data = checkpoints.restore(checkpoints.latest(), target(before, other, P(None, "data")))
    assert data == {"position": 7} and isinstance(after, State)
    kernel = after.params["encoder"]["kernel"]
    assert kernel.sharding == NamedSharding(other, P(None, "data"))
    jax.tree.map(np.testing.assert_array_equal, after, before)


def test_the_newest_and_the_best_are_kept(tmp_path, mesh):
    scores = {1: 0.2, 2: 0.9, 3: 0.4, 4: 0.5, 5: None}
    for step, score in scores.items():  # a new manager each time, as after a restart
        checkpoints = checkpoint.Checkpoints(tmp_path, keep=2, best="top1")
        metrics = {} if score is None else {"top1": score, "other": 1.0}
        checkpoints.save(step, state(step, mesh), {}, metrics)
        checkpoints.close()
    assert checkpoint.Checkpoints(tmp_path).steps() == [2, 4, 5]


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_to_any_file_is_found_and_the_step_before_is_taken(saved, damage):
    for file in [f for f in (saved / "3").rglob("*") if f.is_file() and f.stat().st_size]:
        content = file.read_bytes()
        if damage == "flip":
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
        elif damage == "truncate":
            file.write_bytes(content[: len(content) // 2])
        else:
            file.unlink()
        assert checkpoint.verify(saved / "3"), file
        file.write_bytes(content)
    assert checkpoint.verify(saved / "3") == []


def test_a_damaged_step_is_passed_over_and_removed(saved, mesh, caplog):
    blob = max(
        (f for f in (saved / "3" / "state").rglob("*") if f.is_file()),
        key=lambda f: f.stat().st_size,
    )
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    checkpoints = checkpoint.Checkpoints(saved, keep=3)
    assert checkpoints.latest() == 2
    assert checkpoints.steps() == [1, 2]
    restored, _ = checkpoints.restore(2, target(state(0, mesh), mesh))
    assert int(restored.step) == 2


def test_a_step_cut_off_before_its_manifest_does_not_count(saved):
    (saved / "3" / checkpoint.MANIFEST).unlink()
    assert checkpoint.Checkpoints(saved).latest() == 2


def test_a_run_never_silently_starts_afresh(saved, tmp_path):
    for step in ("1", "2", "3"):
        (saved / step / "commit_success.txt").write_text("?")
    with pytest.raises(ValueError, match=r"all 3 checkpoints in .* are damaged"):
        checkpoint.Checkpoints(saved).latest()
    assert checkpoint.Checkpoints(tmp_path / "new").latest() is None


def test_another_model_is_named_by_arrays_and_shapes(saved, mesh):
    kernel = jax.ShapeDtypeStruct((6, 9), jnp.float32, sharding=NamedSharding(mesh, P()))
    wanted = target(state(0, mesh), mesh)._replace(params={"encoder": {"kernel": kernel}})
    wanted.params["head"] = {"bias": kernel}
    with pytest.raises(ValueError, match="is of another model") as error:
        checkpoint.Checkpoints(saved).restore(3, wanted)
    message = str(error.value)
    assert "1 missing: params/head/bias" in message
    assert "params/encoder/kernel (6, 8) there, (6, 9) here" in message
    assert "\n" not in message


def test_a_save_that_fails_says_what_is_safe(saved, mesh, monkeypatch):
    checkpoints = checkpoint.Checkpoints(saved, keep=3)

    def full():
        raise ValueError("OUT_OF_RANGE: Error writing\n no space left on device")

    checkpoints.save(4, state(4, mesh), {}, {})
    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", full)
    with pytest.raises(OSError, match="no space left") as error:
        checkpoints.wait()
    assert "step 4 could not be written" in str(error.value)
    assert "that of step 3 is safe" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_disk_without_room_is_found_before_anything_is_written(tmp_path, mesh, monkeypatch):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(1, state(1, mesh), {}, {})
    checkpoints.wait()
    usage = shutil.disk_usage(tmp_path)._replace(free=200)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    before = sorted((tmp_path / "checkpoints").rglob("*"))
    with pytest.raises(OSError, match=r"step 2 could not be written .*step 1 is safe.* are free"):
        checkpoints.save(2, state(2, mesh), {}, {})
    assert sorted((tmp_path / "checkpoints").rglob("*")) == before
    checkpoints.close()


def test_weights_of_another_run_come_by_name(saved, mesh):
    kernel = target(state(0, mesh), mesh).params["encoder"]["kernel"]
    wanted = {"params": {"encoder": {"kernel": kernel}, "head": {"bias": kernel}}}
    arrays, differences = checkpoint.restore_parameters(saved.parent, wanted)
    np.testing.assert_array_equal(
        arrays["params"]["encoder"]["kernel"], state(3, mesh).params["encoder"]["kernel"]
    )
    assert isinstance(arrays["params"]["head"]["bias"], jax.ShapeDtypeStruct)
    assert differences == {"missing": ["params/head/bias"]}
    with pytest.raises(ValueError, match="holds no checkpoints/ folder"):
        checkpoint.restore_parameters(saved / "nowhere", wanted)
