"""What images cost before the model: decoding, the pipeline around it, starting, augmenting.

    python benchmarks/input.py --photos photos.tar [--out DIR] [--only decode,pipeline,...]
"ms" is CPU time (user and system, all threads) per image, so it says what one core can do whatever
else runs on the machine; x is images per second and core. What is compared is measured in turns
within one run; medians of ROUNDS. TensorFlow is needed for its column alone. v5e: the cycles that
libtpu estimates for a program, no chip needed; loops count as often as they run.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import input_views
import numpy as np
import table
from input_rows import CANVAS, ROUNDS, SIZE, in_turns, row

PHOTOS, RECORDS = 50, 14_000_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--photos", help="a folder or archive of photographs")
    parser.add_argument("--out", help="folder for the JSON")
    parser.add_argument("--only", default="decode,views,pipeline,workers,start,augment,v5e")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:  # in a process of its own
        print(json.dumps(PARTS[args.part](args)))
        return
    parts = args.only.split(",")
    rows = []
    for part in parts:
        alone = part in ("start", "v5e")
        rows += in_process(part, args) if alone else PARTS[part](args)
    rows = earlier(args.out, parts) + rows
    table.publish("input", f"load average {os.getloadavg()[0]:.0f} on 2 cores", rows, args.out)


def earlier(out, parts) -> list[dict]:
    """Rows of the parts that are not measured again."""
    file = (pathlib.Path(out) if out else table.RESULTS) / "input.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    return [row for row in rows if row["part"] not in parts]


def in_process(part, args):
    command = [sys.executable, __file__, "--part", part, "--photos", args.photos or ""]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def photographs(args) -> list[bytes]:
    from vitjax.data.folder import FolderSource

    source = FolderSource("all", path=args.photos)
    return [source[index]["image"] for index in range(min(PHOTOS, len(source)))]


def boxes(files, area=(0.08, 1.0)):
    """A random box of each photograph, the same for every work."""
    from vitjax.data.decode import dimensions, sample_box

    random = np.random.RandomState(0)
    return [
        sample_box(*dimensions(file), random.uniform(size=22), area, (3 / 4, 4 / 3))
        for file in files
    ]


def pillow_crop(image, box, size):
    from PIL import Image

    top, left, height, width = box
    image = image.crop((left, top, left + width, top + height))
    return image.resize((size, size), Image.Resampling.BICUBIC)


def decode(args):
    import io

    from PIL import Image

    from vitjax.data import decode as ours

    files = photographs(args)
    crops = boxes(files)

    def pillow():
        for file, box in zip(files, crops, strict=True):
            with Image.open(io.BytesIO(file)) as image:
                np.asarray(pillow_crop(image.convert("RGB"), box, SIZE))

    canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)  # in a batch, it is there already

    def to_canvas(exact):
        for file in files:
            ours.put(canvas, ours.read(file, None if exact else CANVAS), exact)

    fused = fused_dataset(files, crops)
    works = {
        "JPEG to canvas of 256, scaled": lambda: to_canvas(False),
        "JPEG to canvas of 256, decoded whole": lambda: to_canvas(True),
        "a random box to canvas, on the host": lambda: [
            ours.crop_to_canvas(file, SIZE, np.full(22, 0.5)) for file in files
        ],
        "tf.data, fused decode_and_crop, bilinear": lambda: sum(1 for _ in fused),
        "Pillow, decode, crop, bicubic": pillow,
    }
    taken = in_turns(works, len(files))
    first = next(iter(taken.values()))
    return [row("decode", name, ms, "it / ours", ms / first) for name, ms in taken.items()]


def fused_dataset(files, crops):
    import tensorflow as tf

    def one(file, box):
        image = tf.image.decode_and_crop_jpeg(file, box, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), "bilinear")
        return tf.cast(image, tf.uint8)

    data = tf.data.Dataset.from_tensor_slices((files, np.array(crops, np.int32)))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    return data.map(one, num_parallel_calls=1).batch(25).prefetch(1).with_options(options)


def views(args):
    """DINOv2's ten crops: on the host with libjpeg-turbo and Pillow, or left to the accelerator."""
    import simplejpeg
    from PIL import Image, ImageEnhance, ImageFilter

    from vitjax.data import decode as ours

    files = photographs(args)[:40]
    crops = [boxes(files, (0.32, 1.0)) for _ in range(2)] + [
        boxes(files, (0.05, 0.32)) for _ in range(8)
    ]

    canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)

    def ten(photometric):
        for number, file in enumerate(files):
            image = Image.fromarray(simplejpeg.decode_jpeg(file))
            for view, each in enumerate(crops):
                crop = pillow_crop(image, each[number], SIZE if view < 2 else 98)
                if photometric:
                    for enhancer in (
                        ImageEnhance.Brightness,
                        ImageEnhance.Contrast,
                        ImageEnhance.Color,
                    ):
                        crop = enhancer(crop).enhance(1.2)
                    crop = crop.filter(ImageFilter.GaussianBlur(1.0)) if view % 2 else crop
                np.asarray(crop)

    taken = in_turns(
        {
            "plain decode (whole, libjpeg-turbo)": lambda: [
                simplejpeg.decode_jpeg(f) for f in files
            ],
            "2 + 8 views, left to the accelerator": lambda: [
                ours.put(canvas, ours.read(file, CANVAS), False) for file in files
            ],
            "2 + 8 views, geometry on the host": lambda: ten(False),
            "2 + 8 views, with jitter and blur": lambda: ten(True),
        },
        len(files),
    )
    plain = taken["plain decode (whole, libjpeg-turbo)"]
    return [row("views", name, ms, "it / plain decode", ms / plain) for name, ms in taken.items()]


class Photographs:
    """Files in memory, over and over."""

    def __init__(self, files, count):
        from vitjax.data.info import Info

        self.files, self.count = files, count
        self.info, self.annotations, self.lacking = Info("photographs", ("one",), "none"), (), ()
        self.labels = np.zeros(count, np.int32)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": self.files[index % len(self.files)], "label": 0}

    def key(self, index):
        return str(index)


def stream(source, canvas, batch_size, threads, workers=0):
    from vitjax.data.pipeline import train_batches
    from vitjax.data.splits import Split

    settings = {"batch_size": batch_size, "canvas": canvas, "seed": 0}
    return train_batches(Split(source), threads=threads, workers=workers, **settings)


def cpu_per_image(batches, steps, batch_size):
    """CPU milliseconds per image, of all threads, in a stream that has run in."""
    for _ in range(4):
        next(batches)
    start = time.process_time()
    for _ in range(steps):
        next(batches)
    return 1000 * (time.process_time() - start) / steps / batch_size


def pipeline(args):
    """The whole stream of batches against a loop that decodes; photographs, then CIFAR's size."""
    from vitjax.data import decode as ours

    files = photographs(args)
    source = Photographs(files, 1000)
    canvas = np.zeros((CANVAS, CANVAS, 3), np.uint8)
    raw, whole = [], []
    for _ in range(ROUNDS):
        start = time.process_time()
        for file in files:
            ours.put(canvas, ours.read(file, CANVAS), False)
        raw.append(1000 * (time.process_time() - start) / len(files))
        with stream(source, CANVAS, 20, 1) as batches:
            whole.append(cpu_per_image(batches, 6, 20))
    raw, whole = statistics.median(raw), statistics.median(whole)
    rows = [row("pipeline", "photographs, decoded in a loop", raw)]
    rows += [row("pipeline", "photographs, batches", whole, "it / loop", whole / raw)]

    with tempfile.TemporaryDirectory() as folder:
        small = small_images(folder)
        taken = []
        for _ in range(ROUNDS):
            with stream(small, 32, 256, 1) as batches:
                taken.append(cpu_per_image(batches, 40, 256))
    rows += [row("pipeline", "32 x 32, stored raw: batches", statistics.median(taken))]
    return rows


def small_images(folder, count=20_000):
    """A prepared data set of CIFAR's size."""
    from vitjax.data import shards

    random = np.random.RandomState(0)
    name = pathlib.Path(folder, "train-00000-of-00001.array_record")
    images = random.randint(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    shards.write(name, (shards.pack(str(i), i % 10, images[i % 64]) for i in range(count)))
    return described(folder, [name.name], count)


def described(folder, names, each):
    """The source of shards of `each` examples, by a manifest written here."""
    from vitjax.data import shards

    known = [{"file": name, "examples": each, "bytes": 0, "blake2b": ""} for name in names]
    counts = [each * len(names) // 10] * 10
    split = {"class_counts": counts, "shards": known}
    manifest = {"format": shards.FORMAT, "name": "made", "licence": "none"}
    manifest |= {"classes": [str(i) for i in range(10)], "splits": {"train": split}}
    pathlib.Path(folder, "manifest.json").write_text(json.dumps(manifest))
    return shards.ShardSource("train", path=folder)


def workers(args):
    """One thread against two, in turns: wall time says it only where the cores are free."""
    source = Photographs(photographs(args), 1000)
    wall = {1: [], 2: []}
    cpu = {1: [], 2: []}
    for _ in range(ROUNDS):
        for threads in (1, 2):
            with stream(source, CANVAS, 20, threads) as batches:
                for _ in range(4):
                    next(batches)
                start, used = time.perf_counter(), time.process_time()
                for _ in range(12):
                    next(batches)
                wall[threads].append((time.perf_counter() - start) / 240)
                cpu[threads].append((time.process_time() - used) / 240)
    fastest = {threads: 1000 * min(each) for threads, each in wall.items()}
    used = {threads: 1000 * statistics.median(each) for threads, each in cpu.items()}
    return [
        row("workers", "one thread, least wall time", fastest[1]),
        row(
            "workers",
            "two threads, least wall time",
            fastest[2],
            "one / two",
            fastest[1] / fastest[2],
        ),
        row(
            "workers",
            "two threads, CPU time",
            used[2],
            "two x CPU of one / two",
            2 * used[1] / used[2],
        ),
    ]


def start(args):
    """14 million records: 3418 shards that are one file under many names, read for real."""
    import grain  # noqa: F401 - its imports (jax) are not what is measured

    from vitjax.data import shards, splits  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    each = 4096
    names = [f"train-{i:05d}.array_record" for i in range(RECORDS // each + 1)]
    pixels = np.zeros((8, 8, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        first = pathlib.Path(folder, names[0])
        shards.write(first, (shards.pack(str(i), i % 10, pixels) for i in range(each)))
        for name in names[1:]:
            os.link(first, pathlib.Path(folder, name))
        described(folder, names, each)
        began, used = time.perf_counter(), time.process_time()
        source = shards.ShardSource("train", path=folder)
        with stream(source, 8, 256, 1) as batches:
            next(batches)
            seconds, cpu = time.perf_counter() - began, time.process_time() - used
            for _ in range(200):
                next(batches)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = f"{len(source):,} records"
    return [
        row("start", f"{count}, to the first batch", "", "wall s", seconds),
        row("start", f"{count}, to the first batch", "", "CPU s", cpu),
        row("start", f"{count}, 201 batches", "", "MB at most", after / 1024),
        row("start", "of these, before anything was opened", "", "MB", before / 1024),
    ]


PARTS = {
    "decode": decode,
    "views": views,
    "pipeline": pipeline,
    "workers": workers,
    "start": start,
    "augment": input_views.augment,
    "v5e": input_views.v5e,
}


if __name__ == "__main__":
    main()
