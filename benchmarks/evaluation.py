"""What every evaluator says of raw pixels, random and trained encoders: the table of
docs/evaluation.md.

    python benchmarks/evaluation.py --runs runs --cifar10 cifar10.tar.xz

--runs holds the trained encoders (see RUNS); what is missing is trained first. Each cell of the
table is `vitjax evaluate` on the test split; all numbers of a data set and an encoder are kept in
benchmarks/results/evaluation/, and are not measured again. --table only prints.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "evaluation"
RUNS = {
    "digits": {"vit": "digits_vit.py", "resnet": "digits_resnet.py"},
    "cifar10": {
        "vit": "cifar10_vit_ti4.py:path={cifar10},minutes",
        "resnet": "cifar10_resnet18.py:path={cifar10},minutes",
    },
    "shapes": {"vit": "shapes_vit.py", "resnet": "shapes_resnet.py"},
}
PIXELS = {"digits": "side=8,patch=2", "cifar10": "side=32,patch=4", "shapes": "side=32,patch=4"}
IMAGE = ("knn", "linear", "fewshot", "logistic", "attentive", "retrieval", "monitors")
ALTERED = ("corruptions", "shift", "shuffle", "occlusion", "scale", "cue_conflict", "style")
DENSE = ("patch_knn", "segmentation", "depth", "foreground", "tokencut", "matching")
SETTINGS = (
    "evaluate.train_examples=5000",
    "evaluate.sample_examples=400",
    "evaluators.linear.steps=1000",
    "evaluators.linear.batch_size=256",
    "evaluators.knn.k=(10,20,100)",
    "evaluators.segmentation.steps=500",
    "evaluators.depth.steps=300",
    "evaluators.corruptions.scale='cifar'",
    "evaluators.corruptions.severities=(1,3,5)",
    "evaluators.attentive.steps=300",
    "evaluators.fewshot.shots=(1,10)",
    "evaluators.logistic.grid=(1e-4,1e-3,1e-2,1e-1,1,10,100)",
    "evaluators.logistic.iterations=300",
)
# Evaluator, number, what it is called in the table, and how it is printed.
ROWS = (
    ("knn", "top1_k20", "kNN, k = 20", "%"),
    ("linear", "top1", "linear (DINOv2's grid, cached)", "%"),
    ("fewshot", "top1_10shot", "10-shot ridge", "%"),
    ("logistic", "top1", "logistic regression", "%"),
    ("attentive", "top1", "attentive probe", "%"),
    ("retrieval", "map", "retrieval, mAP", "%"),
    ("corruptions", "mean_error", "15 corruptions, mean error (lower is better)", "%"),
    ("shift", "consistency", "shift, consistency", "%"),
    ("shuffle", "top1_4x4", "shuffled 4 x 4", "%"),
    ("occlusion", "top1_0.5", "half of it occluded", "%"),
    ("scale", "top1_0.5", "at half its size", "%"),
    ("style", "top1_recoloured", "in other colours", "%"),
    ("cue_conflict", "shape_share", "shape against texture", "%"),
    ("patch_knn", "miou", "patch-kNN segmentation, mIoU", "%"),
    ("segmentation", "miou", "linear segmentation, mIoU", "%"),
    ("foreground", "iou", "foreground by component 1, IoU", "%"),
    ("tokencut", "iou", "TokenCut, IoU", "%"),
    ("tokencut", "corloc", "TokenCut, CorLoc", "%"),
    ("matching", "pck_point", "key points, PCK at 0.1", "%"),
    ("matching", "part_accuracy", "parts matched", "%"),
    ("depth", "rmse", "depth, RMSE in m (lower is better)", "m"),
    ("monitors", "rankme", "RankMe", ""),
    ("monitors", "uniformity", "uniformity (lower is more even)", ""),
    ("monitors", "class_patch_cosine", "class-patch cosine", ""),
)
ENCODERS = ("pixels", "random vit", "random resnet", "vit", "resnet")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--cifar10", default="cifar10.tar.xz")
    parser.add_argument("--only", help="one data set")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    args = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for data in RUNS:
        if args.only in (None, data):
            if not args.table:
                measure(data, args)
            print(table(data))


def measure(data: str, args) -> None:
    configs = {
        kind: "configs/" + config.format(cifar10=args.cifar10)
        for kind, config in RUNS[data].items()
    }
    names = IMAGE + ALTERED + (DENSE if data == "shapes" else ())
    settings = []
    for text in SETTINGS:
        section, name = text.split(".")[:2]
        if section != "evaluators" or name in names:
            settings += ["--set", text]
    for encoder in ENCODERS:
        out = RESULTS / f"{data}_{encoder.replace(' ', '_')}.json"
        if out.exists():
            continue
        kind = encoder.split()[-1]
        if encoder == "pixels":
            which = ["--config", configs["vit"], "--encoder", f"pixels:{PIXELS[data]}"]
        elif encoder.startswith("random"):
            which = ["--config", configs[kind]]
            if kind == "resnet":
                # As it starts to train, its blocks add nothing, and what is left sees every eighth
                # pixel: kNN on digits is 15%, and 81% with blocks that do something.
                which += ["--set", "encoder.zero_init=False"]
        else:
            workdir = Path(args.runs) / f"{data}_{kind}"
            run("vitjax.main", "--config", configs[kind], "--workdir", str(workdir))
            which = ["--checkpoint", str(workdir)]
        if data == "cifar10":
            which += ["--set", f"data.path={args.cifar10}"]
        print(f"{data}, {encoder}", file=sys.stderr)
        evaluators = ",".join(names)
        common = ["--split", "test", "--evaluators", evaluators, "--out", str(out)]
        run("vitjax", "evaluate", *which, *common, *settings)


def run(module: str, *argv: str) -> None:
    subprocess.run([sys.executable, "-m", module, *argv], check=True)


def table(data: str) -> str:
    """Markdown: a row per number, a column per encoder that was measured."""
    files = {name: RESULTS / f"{data}_{name.replace(' ', '_')}.json" for name in ENCODERS}
    records = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    lines = [f"| {data} | " + " | ".join(records) + " |", "|---" * (1 + len(records)) + "|"]
    for evaluator, number, label, unit in ROWS:
        key = f"eval/test/{evaluator}/{number}"
        values = [record["results"].get(key) for record in records.values()]
        if any(value is not None for value in values):
            shown = [show(value, unit) for value in values]
            lines.append(f"| {label} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def show(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}" if unit == "%" else f"{value:.3g}"


if __name__ == "__main__":
    main()
