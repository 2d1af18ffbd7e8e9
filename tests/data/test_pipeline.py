import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from synthetic import Arrays, Watchful

from vitjax.data.pipeline import eval_batches, train_batches
from vitjax.data.splits import Split, open_splits

N, B, S, STEPS = 23, 8, 5, 7  # 56 positions: two epochs and a half


def stream(split, steps=STEPS, **settings):
    settings = {"batch_size": B, "canvas": S, "seed": 1, "threads": 2} | settings
    with train_batches(split, **settings) as batches:
        return list(itertools.islice(batches, steps))


def assert_same(got, want):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def joined(parts):
    """The global batches of the local ones of every process."""
    return [
        {name: np.concatenate([local[name] for local in locals_]) for name in locals_[0]}
        for locals_ in zip(*parts, strict=True)
    ]


@pytest.fixture(scope="module")
def split():
    return Split(Arrays(N))


@pytest.fixture(scope="module")
def batches(split):
    return stream(split)


def test_batches_keep_their_contract(split, batches):
    for batch in batches:
        shapes = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
        assert shapes == {
            "image": ("uint8", (B, S, S, 3)),
            "size": ("int32", (B, 2)),
            "label": ("int32", (B,)),
            "index": ("uint32", (B,)),
            "epoch": ("uint32", (B,)),
        }
        for row in range(B):
            index = int(batch["index"][row])
            pixels = split[index]["image"]
            height, width = batch["size"][row]
            np.testing.assert_array_equal(batch["image"][row, :height, :width], pixels)
            assert batch["image"][row].sum() == pixels.sum()
            assert batch["label"][row] == split.labels[index]


def test_every_epoch_shows_every_example_once_in_another_order(batches):
    index, epoch = (np.concatenate([b[name] for b in batches]) for name in ("index", "epoch"))
    assert epoch.tolist() == [i // N for i in range(STEPS * B)]
    assert sorted(index[:N]) == sorted(index[N : 2 * N]) == list(range(N))
    assert index[:N].tolist() != index[N : 2 * N].tolist()
    assert index[:N].tolist() != list(range(N))


@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_sees_the_same_global_batches(split, batches, processes):
    parts = [
        stream(split, process_index=p, process_count=processes, threads=p + 1)
        for p in range(processes)
    ]
    assert_same(joined(parts), batches)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_change_nothing_and_start_no_backend(batches, workers):
    got = stream(Split(Watchful(N)), workers=workers)
    assert_same(got, batches)
    assert all(type(array) is np.ndarray for array in got[0].values())


def test_resuming_at_every_step_gives_identical_bytes(split, batches):
    with train_batches(split, batch_size=B, canvas=S, seed=1) as one:
        for step in range(STEPS):
            state = json.loads(json.dumps(one.get_state()))
            assert state["position"] == step * B
            assert_same(stream(split, STEPS - step, start=state["position"]), batches[step:])
            with train_batches(split, batch_size=B, canvas=S, seed=1) as other:
                next(other)
                other.set_state(state)
                assert_same(list(itertools.islice(other, STEPS - step)), batches[step:])
                assert other.get_state()["position"] == STEPS * B
            next(one)


def test_a_state_fits_other_numbers_of_processes_workers_and_rows(split, batches):
    with train_batches(split, batch_size=B, canvas=S, seed=1, workers=2) as before:
        for _ in range(3):
            next(before)
        state = before.get_state()
    halves = []
    for p in range(2):
        with train_batches(
            split, batch_size=4, canvas=S, seed=1, process_index=p, process_count=2
        ) as after:
            after.set_state(state)
            halves.append(list(itertools.islice(after, 2)))
    first, second = joined(halves)
    both = {name: np.concatenate([first[name], second[name]]) for name in first}
    assert_same([both], batches[3:4])


def test_a_state_of_other_data_is_refused(split):
    with (
        train_batches(split, batch_size=B, canvas=S, seed=1) as batches,
        pytest.raises(ValueError, match=r"22 examples.*has 23"),
    ):
        batches.set_state({"position": 8, "examples": 22, "unreadable": []})


def test_seeds_and_shuffle_decide_the_order(split, batches):
    assert stream(split, 1, seed=2)[0]["index"].tolist() != batches[0]["index"].tolist()
    straight = np.concatenate([b["index"] for b in stream(split, shuffle=False)])
    assert straight.tolist() == [i % N for i in range(STEPS * B)]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [N, 24, 1])
def test_evaluation_shows_each_example_once_in_order(processes, count):
    split = Split(Arrays(count))
    parts = [
        list(eval_batches(split, batch_size=6, canvas=S, process_index=p, process_count=processes))
        for p in range(processes)
    ]
    whole = joined(parts)
    assert len(whole) == -(-count // 6)
    index, label = (np.concatenate([b[name] for b in whole]) for name in ("index", "label"))
    real = label >= 0
    assert index[real].tolist() == list(range(count))
    np.testing.assert_array_equal(label[real], split.labels)
    images, sizes = (np.concatenate([b[name] for b in whole]) for name in ("image", "size"))
    assert not images[~real].any()
    assert (sizes[~real] == S).all()
    assert images[real][-1].sum() == split[count - 1]["image"].sum()


def names_logged(caplog):
    return sorted(r.args[0] for r in caplog.records if "unreadable" in r.msg)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_give_way_to_the_next_readable_one(batches, workers, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    split = Split(Arrays(N, broken=[4, 5, N - 1]))
    with train_batches(
        split, batch_size=B, canvas=S, seed=1, bad_share=0.2, workers=workers
    ) as iterator:
        got = list(itertools.islice(iterator, STEPS))
        assert iterator.skipped == 3
        state = iterator.get_state()
        assert state["unreadable"] == [4, 5, N - 1]
        iterator.set_state(state)
        next(iterator)
        assert iterator.skipped == 3
    want = np.concatenate([b["index"] for b in batches])
    want[(want == 4) | (want == 5)] = 6
    want[want == N - 1] = 0
    np.testing.assert_array_equal(np.concatenate([b["index"] for b in got]), want)
    for batch in got:
        np.testing.assert_array_equal(batch["label"], split.labels[batch["index"]])
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    assert names_logged(caplog) == ["arrays/22", "arrays/4", "arrays/5"]


def test_one_unreadable_image_ends_no_run_unless_none_is_allowed():
    split = Split(Arrays(N, broken=[4]))
    assert len(stream(split)) == STEPS
    with pytest.raises(ValueError, match=r"1 of 23 examples.*input\.bad_share=0 .*arrays/4$"):
        stream(split, bad_share=0)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_too_many_unreadable_images_end_the_run_in_one_line(workers):
    split = Split(Arrays(N, broken=range(2, 9)))
    with pytest.raises(ValueError, match=r"of 23 examples of arrays .*input\.bad_share") as error:
        stream(split, bad_share=0.1, workers=workers)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"input\.bad_share"):
        list(eval_batches(split, batch_size=B, canvas=S, bad_share=0.1))


def test_a_split_of_garbage_ends_whatever_is_allowed():
    with pytest.raises(ValueError, match="3 of 3 examples"):
        stream(Split(Arrays(3, broken=range(3))), bad_share=1.0)
    with pytest.raises(ValueError, match="1 of 1 examples"):
        stream(Split(Arrays(1, broken=[0])))


def test_unreadable_images_are_padding_in_evaluation():
    split = Split(Arrays(N, broken=[4, 17]))
    whole = list(eval_batches(split, batch_size=B, canvas=S, bad_share=0.1))
    label = np.concatenate([b["label"] for b in whole])
    assert np.flatnonzero(label < 0).tolist() == [4, 17, N]
    assert np.sum(label >= 0) == N - 2


def test_open_splits_carves_the_same_minival_for_every_fraction(digits_dir):
    def opened(**settings):
        return open_splits("digits", data_dir=digits_dir, **settings)

    whole, tenth, hundredth = opened(), opened(fraction=0.1), opened(fraction=0.01)
    assert list(whole) == ["train", "validation", "test"]
    held = whole["validation"].keys()
    assert held == tenth["validation"].keys() == hundredth["validation"].keys()
    assert 0.08 < len(held) / 1438 < 0.12
    assert sorted(held + whole["train"].keys()) == sorted(f"train/{i}" for i in range(1438))
    small, medium, large = (set(s["train"].keys()) for s in (hundredth, tenth, whole))
    assert small < medium < large
    assert set(hundredth["train"].labels) == set(range(10))
    train = tenth["train"]
    assert train[3]["label"] == train.labels[3]
    assert train.info.classes == 10
    assert list(opened(test=None, minival=0)) == ["train"]
    named = opened(train="train[:80%]", validation="train[80%:]")
    assert len(named["train"]) + len(named["validation"]) == 1438


def test_a_class_to_be_tested_has_to_be_trained(tmp_path):
    for name in ("train/ant", "train/cat", "test/ant", "test/bee"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no images in 'train' of 1 classes .*\(bee\)"):
        open_splits("folder", path=tmp_path, minival=0)


def test_bad_settings_name_their_key(split, digits_dir):
    with pytest.raises(ValueError, match="batch_size a multiple of 3"):
        stream(split, process_count=3)
    with pytest.raises(ValueError, match=r"input\.threads"):
        stream(split, threads=0)
    with pytest.raises(ValueError, match="empty"):
        eval_batches(split.select(np.array([], int)), batch_size=B, canvas=S)
    with pytest.raises(ValueError, match=r"data\.minival"):
        open_splits("digits", data_dir=digits_dir, minival=1e-6)
    with pytest.raises(TypeError, match="colour"):
        open_splits("digits", data_dir=digits_dir, colour=True)


def run(script, **settings):
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        **settings,
    )


def test_reading_data_starts_no_backend_and_no_tensorflow(digits_dir):
    script = f"""
import sys
from vitjax.data.pipeline import eval_batches, train_batches
from vitjax.data.splits import open_splits
splits = open_splits("digits", data_dir={str(digits_dir)!r})
with train_batches(splits["train"], batch_size=6, canvas=8, seed=0) as batches:
    next(batches)
list(eval_batches(splits["test"], batch_size=6, canvas=8))
bridge = sys.modules.get("jax._src.xla_bridge")
print(bridge is None or not bridge._backends, "tensorflow" in sys.modules)
"""
    process = run(script)
    output, _ = process.communicate(timeout=120)
    assert output.split() == ["True", "False"]


WITH_WORKERS = """
import multiprocessing, sys, time
from synthetic import Arrays
from vitjax.data.pipeline import train_batches
from vitjax.data.splits import Split
batches = train_batches(Split(Arrays(23)), batch_size=8, canvas=5, seed=1, workers=2)
next(batches), next(batches)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
"""


def wait_until_gone(pids, seconds=30):
    deadline = time.monotonic() + seconds
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["batches.close(); time.sleep(60)", "", "del batches; 1 / 0"])
def test_no_worker_outlives_its_iterator(ending):
    process = run(WITH_WORKERS + ending, stderr=subprocess.PIPE)
    pids = process.stdout.readline().split()
    try:
        assert len(pids) == 2
        assert wait_until_gone(pids) == []
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_workers_outlive_a_signal_but_not_a_killed_parent():
    process = run(
        WITH_WORKERS + "time.sleep(1); print(next(batches)['label'].size); time.sleep(60)"
    )
    pids = process.stdout.readline().split()
    for pid in pids:
        os.kill(int(pid), signal.SIGTERM)
    assert process.stdout.readline().strip() == "8"
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    process.kill()
    process.communicate()
    assert wait_until_gone(pids) == []


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_with_its_cause():
    process = run(WITH_WORKERS + "[next(batches) for _ in range(9999)]", stderr=subprocess.PIPE)
    pids = process.stdout.readline().split()
    os.kill(int(pids[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert "ValueError: an input worker died with exit code -9" in errors
    assert wait_until_gone(pids) == []


def test_a_host_crop_is_a_function_of_the_example(split):
    settings = {"batch_size": B, "canvas": S, "seed": 1, "threads": 1}
    with train_batches(split, **settings, crop={"area": (0.3, 0.6)}) as batches:
        first = [next(batches) for _ in range(3)]
    with train_batches(split, **settings, crop={"area": (0.3, 0.6)}, start=B) as batches:
        again = next(batches)
    np.testing.assert_array_equal(again["image"], first[1]["image"])
    assert (first[0]["size"] == S).all() and first[0]["image"].any(axis=(1, 2, 3)).all()
    with pytest.raises(ValueError, match=r"input\.crop=.*; expected|input\.crop=.*: expected"):
        train_batches(split, **settings, crop={"areas": (0.3, 0.6)})
