"""Does DINOv2 learn? Curves of runs of a config, beside the same at rate zero.

    C=configs/dinov2_shapes.py
    python -m vitjax.main --config $C --workdir runs/vit
    python -m vitjax.main --config $C:encoder=resnet --workdir runs/resnet
    ZERO="--config.optimizer.lr=0.0 --config.epochs=2 --config.evaluate.every_epochs=1"
    python -m vitjax.main --config $C --workdir runs/zero_vit $ZERO
    python -m vitjax.main --config $C:encoder=resnet --workdir runs/zero_resnet $ZERO
    python benchmarks/dinov2_learns.py --runs runs --name dinov2_shapes
Draws docs/figures/NAME.png and writes benchmarks/results/NAME.json. For dinov2_cifar10:
    C=configs/dinov2_cifar10.py:path=cifar10.tar.xz,hours,encoder=resnet
    python -m vitjax.main --config $C --workdir runs/resnet
    ZERO="--config.optimizer.lr=0.0 --config.epochs=1 --config.optimizer.schedule.warmup_epochs=0"
    python -m vitjax.main --config $C --workdir runs/zero_resnet $ZERO
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
NUMBERS = {
    "kNN, k = 20": "eval/validation/knn/top1_k20",
    "linear probe": "eval/validation/linear/top1",
    "loss": "train/loss",
    "dino": "train/dino",
    "teacher_entropy": "train/teacher_entropy",
    "prototypes_used": "train/prototypes_used",
    "rankme": "train/rankme",
    "nearest_neighbour": "train/nearest_neighbour",
}
TITLES = {"vit": "ViT", "resnet": "ResNet-18"}
LINES = (("kNN, k = 20", "#1b6ca8", "-", "o"), ("linear probe", "#d1495b", "--", "s"))


def read(folder: Path) -> dict | None:
    """{"curves": {number: [[step, value], ...]}, "test", "config", "environment"}; None where there
    is no run."""
    if not (folder / "metrics.jsonl").exists():
        return None
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = {
        label: [[row["step"], row[name]] for row in rows if row.get(name) is not None]
        for label, name in NUMBERS.items()
    }
    test = {
        label: row[name.replace("validation", "test")]
        for row in rows
        for label, name in NUMBERS.items()
        if name.startswith("eval/") and name.replace("validation", "test") in row
    }
    record = json.loads((folder / "config.json").read_text())
    config = record.pop("config")
    if "path" in config["data"]:  # where it lay is nobody's business
        config["data"]["path"] = Path(config["data"]["path"]).name
    return {"curves": curves, "test": test, "config": config, "environment": record}


def draw(runs: dict[str, dict], file: Path) -> None:
    panels = [(name, title) for name, title in TITLES.items() if name in runs]
    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
    plots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, title) in zip(plots, panels, strict=True):
        zero = runs.get(f"zero_{name}")
        for label, colour, dash, marker in LINES:
            points = list(runs[name]["curves"][label])
            if zero:
                start = zero["curves"][label][0][1]
                points = [[0, start], *points]
                axes.axhline(100 * start, color=colour, linestyle=":", linewidth=1)
            steps, values = zip(*points, strict=True)
            shown = [100 * value for value in values]
            axes.plot(steps, shown, color=colour, linestyle=dash, marker=marker, label=label)
        axes.axhline(10, color="black", linewidth=0.8)
        axes.set_title(f"{title}; dotted: learning rate zero; black: chance", fontsize="small")
        axes.set_xlabel("step")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("validation top-1, %")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(file, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the files that are written")
    args = parser.parse_args()
    names = ("vit", "resnet", "zero_vit", "zero_resnet")
    runs = {name: found for name in names if (found := read(args.runs / name))}
    draw(runs, ROOT / "docs" / "figures" / f"{args.name}.png")
    file = ROOT / "benchmarks" / "results" / f"{args.name}.json"
    file.write_text(json.dumps(runs, indent=1) + "\n")
    for name, run in runs.items():
        last = {label: run["curves"][label][-1][1] for label, *_ in LINES}
        print(name, "first", {label: run["curves"][label][0] for label, *_ in LINES})
        print(name, "last", last, "test", run["test"])


if __name__ == "__main__":
    main()
