"""Writing a prepared data set: shard by shard, in several processes, and again after a kill.

A shard is whole or absent, and what is known of it stands beside it (<shard>.json) until the
manifest has it all; what stands there is not written again.
"""

import collections
import concurrent.futures
import dataclasses
import io
import json
import multiprocessing
import pathlib

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from vitjax.data import gather, shards
from vitjax.data.decode import UnreadableImage, read
from vitjax.data.unreadable import allowed
from vitjax.whole import write_whole

ORIENTATION = 0x0112  # the EXIF tag
NAMED = 20  # unreadable examples that a manifest names


@dataclasses.dataclass(frozen=True)
class Form:
    """What becomes of an image. shorter: pixels that its shorter side is shrunk to, None to leave
    it; quality: of the JPEG that is then written; raw: pixels instead of files, for images so small
    that decoding costs more than reading; upright: turned as its EXIF tag says."""

    shorter: int | None = None
    quality: int = 90
    raw: bool = False
    upright: bool = False

    def __post_init__(self):
        if self.shorter is not None and self.shorter < 1:
            raise ValueError(f"--shorter={self.shorter}: expected a number of pixels above 0")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"--quality={self.quality}: expected 1 to 100")


def write(gathered, out, form, *, workers=1, bad_share=0.01, progress=None):
    """Writes all shards that are not there, then labels and manifest. Returns the manifest.

    progress(done, jobs, examples) is called as shards are finished. Raises ValueError where the
    folder holds another data set, or more images than bad_share are unreadable.
    """
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    plan = {"source": gathered.name, "jobs": _described(gathered), "form": dataclasses.asdict(form)}
    _keep_plan(out / "plan.json", plan)
    names, numbered = [], collections.Counter()
    totals = collections.Counter(job.split for job in gathered.jobs)
    for job in gathered.jobs:
        names.append(
            f"{job.split}-{numbered[job.split]:05d}-of-{totals[job.split]:05d}.array_record"
        )
        numbered[job.split] += 1
    known = _write_all(list(zip(gathered.jobs, names, strict=True)), out, form, workers, progress)
    manifest = _manifest(gathered, names, known)
    for split, rows in _by_split(gathered.jobs, known).items():
        np.save(out / f"{split}.labels.npy", np.concatenate([row["labels"] for row in rows]))
    skipped = sum(split["skipped"] for split in manifest["splits"].values())
    examples = sum(split["examples"] for split in manifest["splits"].values())
    if skipped > allowed(examples + skipped, bad_share) or not examples:
        named = [name for split in manifest["splits"].values() for name in split["skipped_names"]]
        raise ValueError(
            f"{skipped} of {examples + skipped} images are unreadable, more than "
            f"--bad_share={bad_share} allows: {', '.join(named[:5])}"
        )
    write_whole(out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def _write_all(named_jobs, out, form, workers, progress):
    """What is known of each shard, in order; those that are there are not written again."""
    known, waiting, examples = {}, [], 0
    for job, name in named_jobs:
        beside = out / f"{name}.json"
        if beside.exists() and (out / name).exists():
            known[name] = json.loads(beside.read_text())
            examples += known[name]["examples"]
        else:
            waiting.append((job, name))
    if progress:
        progress(len(known), len(named_jobs), examples)
    # Spawned, as threads of this process must not be copied in the middle of their work.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {
            pool.submit(write_shard, job, str(out), name, form): name for job, name in waiting
        }
        try:
            for future in concurrent.futures.as_completed(futures):
                name = futures[future]
                known[name] = future.result()
                examples += known[name]["examples"]
                if progress:
                    progress(len(known), len(named_jobs), examples)
        except concurrent.futures.process.BrokenProcessPool as error:
            raise ValueError(
                f"a worker died while it wrote {name} (killed, or out of memory): what is "
                "finished stays; run the same command again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    return [known[name] for _, name in named_jobs]


def write_shard(job, out, name, form):
    """Writes one shard and what is known of it, which is returned."""
    labels, skipped = [], []

    def records():
        for key, label, data in gather.examples(job):
            try:
                if label is None:
                    raise UnreadableImage("no label")
                image = formed(data, form)
            except UnreadableImage as error:
                skipped.append(f"{key}: {error}")
                continue
            labels.append(int(label))
            yield shards.pack(key, label, image)

    size, digest = shards.write(pathlib.Path(out, name), records())
    known = {
        "examples": len(labels),
        "bytes": size,
        "blake2b": digest,
        "labels": labels,
        "skipped": skipped,
    }
    write_whole(pathlib.Path(out, f"{name}.json"), json.dumps(known))
    return known


def formed(data, form):
    """An image as it is to be stored: its own bytes wherever they may stay. Raises UnreadableImage,
    for every image that could not be read later."""
    turned = _turned(data) if form.upright and isinstance(data, bytes) else None
    pixels = turned if turned is not None else read(data)
    shorter = min(pixels.shape[:2])
    if form.shorter is not None and shorter > form.shorter:
        height, width = (round(side * form.shorter / shorter) for side in pixels.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    elif turned is None and isinstance(data, bytes) and not form.raw:
        return data
    pixels = np.ascontiguousarray(pixels)
    if form.raw:
        return pixels
    return simplejpeg.encode_jpeg(pixels, quality=form.quality, colorsubsampling="420")


def _turned(data):
    """The pixels of an image whose tag says it lies on its side or head, turned; else None."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.getexif()[ORIENTATION] == 1:
                return None
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, KeyError, ValueError):
        return None  # no such tag, or no image: `read` will say so


def _described(gathered):
    return [[job.split, repr(job.reads)] for job in gathered.jobs]


def _keep_plan(file, plan):
    """The first run writes what is to be done; the next ones must mean the same."""
    plan = json.loads(json.dumps(plan))
    if file.exists():
        there = json.loads(file.read_text())
        different = [key for key in plan if there[key] != plan[key]]
        if different:
            raise ValueError(
                f"{file.parent} was begun with another {' and '.join(different)}: remove it, or "
                "change --out"
            )
        return
    write_whole(file, json.dumps(plan))


def _by_split(jobs, known):
    rows = collections.defaultdict(list)
    for job, row in zip(jobs, known, strict=True):
        rows[job.split].append(row)
    return rows


def _manifest(gathered, names, known):
    files = dict(zip(names, known, strict=True))
    top = max((max(row["labels"], default=-1) for row in known), default=-1)
    classes = gathered.names or tuple(str(number) for number in range(top + 1))
    splits = {}
    for split, rows in _by_split(gathered.jobs, known).items():
        labels = np.concatenate([np.array(row["labels"], np.int32) for row in rows])
        skipped = [name for row in rows for name in row["skipped"]]
        splits[split] = {
            "examples": len(labels),
            "class_counts": np.bincount(labels, minlength=len(classes)).tolist(),
            "skipped": len(skipped),
            "skipped_names": skipped[:NAMED],
            "shards": [
                {"file": name, **{key: row[key] for key in ("examples", "bytes", "blake2b")}}
                for name, row in files.items()
                if row in rows
            ],
        }
    return {
        "format": shards.FORMAT,
        "name": gathered.name,
        "licence": gathered.licence,
        "classes": list(classes),
        "splits": splits,
    }
