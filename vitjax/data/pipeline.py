"""From a split to batches: the endless training pass and the single evaluation pass.

B global batch, P processes. One grain element is the whole batch of this process: the cost of
Python is paid per batch, and threads (or worker processes) work on different batches.
Which example stands where depends on (seed, position) alone, so neither processes nor workers nor
a restart change what is seen.
"""

import dataclasses
import math
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Mapping

import grain
import numpy as np
from absl import flags

from vitjax.data import annotations
from vitjax.data.decode import UnreadableImage, crop_to_canvas, put, read
from vitjax.data.order import uniform
from vitjax.data.splits import Split
from vitjax.data.unreadable import Unreadable, allowed

STEPS = 2**40  # the training stream has no end; grain wants a length


def local_positions(step, *, start, batch_size, process_index, process_count):
    """Positions in the stream of the rows of batch `step` that this process holds."""
    rows = batch_size // process_count
    first = start + step * batch_size + process_index * rows
    return range(first, first + rows)


def _empty_batch(rows, canvas):
    """Rows that count for nothing: black images of full size (so that crops stay finite)."""
    return {
        "image": np.zeros((rows, canvas, canvas, 3), np.uint8),
        "size": np.full((rows, 2), canvas, np.int32),
        "label": np.full(rows, -1, np.int32),
        "index": np.zeros(rows, np.uint32),
        "epoch": np.zeros(rows, np.uint32),
    }


def _fill(batch, row, split, index, epoch):
    """Writes one example into its row, decoded whole; an UnreadableImage leaves the row as it was.
    Returns the example, and its height and width as it was stored."""
    example = split[index]
    pixels = read(example["image"])
    batch["size"][row] = put(batch["image"][row], pixels)
    _name(batch, row, example["label"], index, epoch)
    return example, pixels.shape[:2]


def _name(batch, row, label, index, epoch):
    batch["label"][row] = label
    batch["index"][row] = index
    batch["epoch"][row] = epoch


@dataclasses.dataclass(frozen=True)
class _Stream:
    """The rows of this process of every training batch: a function of the step, for grain."""

    split: Split
    batch_size: int
    canvas: int
    seed: int
    start: int
    process_index: int
    process_count: int
    bad_share: float
    shuffle: bool
    crop: Mapping | None = None

    def __call__(self, step):
        positions = local_positions(
            int(step),
            start=self.start,
            batch_size=self.batch_size,
            process_index=self.process_index,
            process_count=self.process_count,
        )
        batch, unreadable = _empty_batch(len(positions), self.canvas), set()
        at = [
            self.split.example_at(position, seed=self.seed, shuffle=self.shuffle)
            for position in positions
        ]
        examples = self.split.several([index for _, index in at])
        for row, ((epoch, index), example) in enumerate(zip(at, examples, strict=True)):
            self._fill_with_readable(batch, row, index, epoch, example, unreadable)
        return batch | {"unreadable": np.array(sorted(unreadable), np.int64)}

    def _fill_with_readable(self, batch, row, index, epoch, example, unreadable):
        """Leaves the row empty where it gives up: Unreadable then ends the run, out of grain."""
        size = len(self.split)
        for candidate in range(index, index + size):
            try:
                if candidate > index:
                    example = self.split[candidate % size]
                self._fill(batch, row, example, candidate % size, epoch)
                return
            except UnreadableImage:
                unreadable.add(candidate % size)
                if len(unreadable) > allowed(size, self.bad_share):
                    return

    def _fill(self, batch, row, example, index, epoch):
        """Decodes no more than the canvas, or a box of the image, needs."""
        if self.crop is None:
            pixels = read(example["image"], self.canvas)
        else:
            draws = uniform(22, seed=self.seed, epoch=epoch, index=index)
            pixels = crop_to_canvas(example["image"], self.canvas, draws, **self.crop)
        batch["size"][row] = put(batch["image"][row], pixels, exact=False)
        _name(batch, row, example["label"], index, epoch)


class TrainBatches:
    """Endless training batches; see `train_batches`. A context manager, closed when collected."""

    def __init__(self, stream, threads, workers):
        self._stream = stream
        self._threads = threads
        self._workers = workers
        self._unreadable = Unreadable(stream.split, stream.bad_share)
        self._open(stream.start)

    def _open(self, position):
        self._position = position
        elements = grain.MapDataset.range(STEPS).map(
            dataclasses.replace(self._stream, start=position)
        )
        elements = elements.to_iter_dataset(_read_options(self._threads))
        if self._workers:
            if not flags.FLAGS.is_parsed():  # grain reads its flags, also outside of absl.app
                flags.FLAGS.mark_as_parsed()
            elements = elements.mp_prefetch(
                grain.MultiprocessingOptions(num_workers=self._workers),
                worker_init_fn=_follow_parent,
            )
        self._elements = iter(elements)
        self._elements.start_prefetch()
        self._finalizer = weakref.finalize(self, self._elements.close)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            element = next(self._elements)
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            cause = str(error).rpartition("exit code")[2].split(".")[0].strip()
            raise ValueError(
                f"an input worker died with exit code {cause} (-9: it was killed, as when memory "
                "runs out): the same command goes on from the last checkpoint; fewer input.workers "
                "take less memory"
            ) from error
        self._position += self._stream.batch_size
        size = len(self._stream.split)
        seen = max(self._position, size) // self._stream.process_count
        self._unreadable.add(element.pop("unreadable"), min(seen, size))
        if self._workers:  # out of shared memory, which grain unlinks when the iterator closes
            element = {name: np.array(array, subok=False) for name, array in element.items()}
        return element

    @property
    def skipped(self):
        """How many different examples were unreadable and replaced, on this process."""
        return len(self._unreadable.indices)

    def get_state(self):
        """What to keep in a checkpoint: JSON-able, independent of processes and workers."""
        return {
            "position": self._position,
            "examples": len(self._stream.split),
            "unreadable": sorted(self._unreadable.indices),
        }

    def set_state(self, state):
        """Goes on from a kept state, of any number of processes, workers or rows in a batch."""
        size = len(self._stream.split)
        if state["examples"] != size:
            raise ValueError(
                f"the checkpoint was trained on {state['examples']} examples of "
                f"{self._stream.split.info.name}, this split has {size}: keep data as it was"
            )
        self.close()
        self._unreadable.indices = set(state["unreadable"])
        self._open(state["position"])

    def close(self):
        """Ends the threads and the worker processes."""
        self._finalizer()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def train_batches(
    split,
    *,
    batch_size,
    canvas,
    seed,
    start=0,
    process_index=0,
    process_count=1,
    threads=4,
    workers=0,
    bad_share=0.01,
    shuffle=True,
    crop=None,
):
    """The endless stream of training batches, the rows of this process.

    Batch s of the run covers positions start + [s * batch_size, (s + 1) * batch_size) of the
    stream, and process p holds rows [p, p + 1) * batch_size / process_count of it. Every epoch is
    a new permutation; batches run across the ends of epochs, so none is short.

    batch_size: rows of the global batch. canvas: side of the images in pixels. start: position in
    examples from which to go on. threads: batches decoded at once, and with one more, held in
    memory; in each worker where there are any. workers: processes to decode in, 0 for threads of
    this one (decoding releases the GIL, so they help only where there are many cores). crop: None
    keeps the whole image; {"area": (low, high), "ratio": (low, high)}, or {} for the usual ones,
    cuts a random box out on the host, for images much larger than the canvas (see
    decode.crop_to_canvas; views.crop is then "none").

    An unreadable image is replaced by the next readable one of the split, named in the log once
    and counted. bad_share: the run ends with a ValueError when this process has met more
    unreadable examples than this share of its examples (of one epoch at least, and never more
    than the split has); a single one is always allowed, unless bad_share is 0 or it is the only
    example.

    Returns TrainBatches: batches of uint8 image [B / P, canvas, canvas, 3], int32 size [B / P, 2],
    int32 label, uint32 index and uint32 epoch [B / P].
    """
    _check_sizes(split, batch_size, canvas, process_count, threads)
    if crop is not None and not set(crop) <= {"area", "ratio"}:
        raise ValueError(f"input.crop={dict(crop)!r}: expected None, or area and ratio")
    stream = _Stream(
        split=split,
        batch_size=batch_size,
        canvas=canvas,
        seed=seed,
        start=start,
        process_index=process_index,
        process_count=process_count,
        bad_share=bad_share,
        shuffle=shuffle,
        crop=crop,
    )
    return TrainBatches(stream, threads, workers)


@dataclasses.dataclass(frozen=True)
class _Pass:
    """The rows of this process of every evaluation batch."""

    split: Split
    batch_size: int
    canvas: int
    process_index: int
    process_count: int
    annotated: bool

    def __call__(self, step):
        positions = local_positions(
            int(step),
            start=0,
            batch_size=self.batch_size,
            process_index=self.process_index,
            process_count=self.process_count,
        )
        batch, unreadable = _empty_batch(len(positions), self.canvas), []
        known = {}
        if self.annotated:
            known = annotations.empty(self.split.source, len(positions), self.canvas)
        for row, index in enumerate(positions):
            if index < len(self.split):
                try:
                    example, shape = _fill(batch, row, self.split, index, 0)
                except UnreadableImage:
                    unreadable.append(index)
                    continue
                annotations.fill(known, row, example, shape, batch["size"][row])
        return batch | known | {"unreadable": np.array(unreadable, np.int64)}


def eval_batches(
    split,
    *,
    batch_size,
    canvas,
    process_index=0,
    process_count=1,
    threads=4,
    bad_share=0.01,
    annotated=False,
):
    """Every example of a split once, in order: the rows of this process.

    Arguments and batches as in `train_batches`. annotated: whether batches also hold what the
    source knows of the pixels, in pixels of the canvas (see annotations.py). Every process
    yields the same number of batches; the last ones are filled up with padding rows: label -1,
    black, size that of the canvas. An unreadable image is a padding row too, named in the log and
    counted against bad_share.
    """
    _check_sizes(split, batch_size, canvas, process_count, threads)
    load = _Pass(split, batch_size, canvas, process_index, process_count, annotated)
    return _evaluate(load, threads, bad_share)


def _evaluate(load, threads, bad_share):
    size = len(load.split)
    unreadable = Unreadable(load.split, bad_share)
    steps = grain.MapDataset.range(math.ceil(size / load.batch_size)).map(load)
    elements = iter(steps.to_iter_dataset(_read_options(threads)))
    try:
        for element in elements:
            unreadable.add(element.pop("unreadable"), size // load.process_count)
            yield element
    finally:
        elements.close()


def _check_sizes(split, batch_size, canvas, process_count, threads):
    if not len(split):
        raise ValueError(f"the split of {split.info.name} is empty: change data")
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} rows cannot be shared by {process_count} processes: make "
            f"batch_size a multiple of {process_count}"
        )
    for key, value in {"canvas": canvas, "threads": threads}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"input.{key}={value!r}: expected a whole number above 0")


def _read_options(threads):
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)


def _follow_parent(worker, workers):
    """Set up in a worker: it outlives signals to the group, but never the process it feeds.

    A scheduler that wants the job to end, or Ctrl-C, signals every process: the trainer then
    still needs its batches up to the last checkpoint, and closes the workers itself.
    """
    del worker, workers
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
