"""The report: one page, PNG and CSV, and sentences that say what the planted numbers say."""

import csv
import json
import re

import numpy as np
import pytest

from tests.study.planted import SIZES, curve
from vitjax.study import analysis, curves, report, results, words
from vitjax.study.grid import Grid, Plan

ENVIRONMENT = {
    "versions": {"jax": "0"},
    "hardware": {"device": "cpu", "devices": 1, "cpu_cores": 2},
    "commit": "",
}


def plant(
    workdir, true, seeds=3, noise=0.03, sizes=SIZES, leave_out=(), seed=0, bias=False, train=0.99
):
    """A study whose cells have errors around true curves {encoder: images -> error}; probes are a
    point worse. Returns it."""
    rng = np.random.default_rng(seed)
    grid = Grid(
        encoders={name: {"name": name} for name in true},
        fractions=[D / 1600 for D in sizes],
        seeds=list(range(seeds)),
        lrs=[1e-3, 3e-3],
        budgets={"steps": {"steps": 300}},
    )
    plan = Plan({"data": {}, "optimizer": {}, "evaluators": {}}, grid, "configs/planted.py")
    results.write_plan(workdir, plan)
    shared = {(f, s): 0.05 * rng.standard_normal() for f in grid.fractions for s in grid.seeds}
    for cell in grid.cells:
        if cell in leave_out:
            continue
        images = round(cell.fraction * 1600)
        draw = noise * rng.standard_normal() + shared[cell.fraction, cell.seed]
        error = min(0.95, float(true[cell.encoder](images) * np.exp(draw)))
        numbers = {"accuracy/top1": 1 - error, "linear/top1": 0.99 - error}
        numbers |= {"knn/top1_k1": 0.99 - error}
        if bias:
            numbers |= {
                "bias/distance": images / 1600,
                "bias_field/size": draw,
                "shuffle/top1": 1.0,
            }
        result = {
            "cell": cell._asdict(),
            **dict(images=images, subset="0", steps=300, epochs=1.0, batch_size=16, lr=1e-3),
            **dict(flops=1e9 * (1 + len(cell.encoder)), flops_per_image=1e6, parameters=1000),
            **dict(train_top1=train, test_images=100_000, seconds=60.0, encoder=cell.encoder),
            "trials": [{"lr": 1e-3, "score": 0.5}],
            "numbers": numbers,
            "environment": ENVIRONMENT,
        }
        results.write(results.folder_of(workdir, plan, cell), result)
    return results.read_study(workdir)


def said(study, replicates=200):
    views = analysis.analyse(study, replicates)
    return " ".join(words.summary(study, views)), views


def test_a_lead_that_closes_is_said_with_its_numbers(tmp_path):
    study = plant(tmp_path, {"cnn": curve(0.1, 0.4), "vit": curve(0.2, 0.5)}, noise=0.01)
    text, views = said(study)
    assert "cnn is ahead of vit at 7 of 7 sizes and behind at none: no crossing in range" in text
    assert "As a ratio of errors the lead shrinks with data" in text
    gap = views[0].measures[0].pairs["cnn", "vit"].rows[0].gap
    assert f"cnn minus vit is {gap.value:.1f} ({gap.low:.1f} to {gap.high:.1f}) points" in text
    assert "opposite" not in text
    assert "With 20 images cnn has the highest accuracy" in text
    assert "every pair has the same verdict" in text


def test_gap_and_ratio_that_disagree_are_said_to(tmp_path):
    study = plant(tmp_path, {"cnn": curve(0.1, 0.7), "vit": curve(0.2, 0.5)}, noise=0.01)
    text, views = said(study)
    rows = views[0].measures[0].pairs["cnn", "vit"].rows
    assert rows[0].gap.value > rows[-1].gap.value and rows[0].ratio.value < rows[-1].ratio.value
    assert "the lead grows with data. Gap and ratio tell opposite stories here" in text


def test_a_crossing_is_said_with_its_interval(tmp_path):
    a, b = curve(0.2, 0.3, middle=250.0), curve(0.2, 0.7, middle=250.0)
    text, views = said(plant(tmp_path, {"cnn": a, "vit": b}, seeds=4))
    at = views[0].measures[0].pairs["cnn", "vit"].verdict.at
    assert (
        "cnn is ahead of vit with little data and behind with more: they cross at "
        f"{round(at.value):,} images (90% interval {round(at.low):,} to {round(at.high):,})"
    ) in text
    assert "no crossing" not in text


def test_equals_are_not_told_apart(tmp_path):
    same = {"cnn": curve(0.2, 0.5), "vit": lambda D: curve(0.2, 0.5)(D) * 1.0001}
    text, _ = said(plant(tmp_path, same, noise=0.05, seed=3))
    assert "cannot be told from it" in text or "tells them apart" in text
    assert "they cross" not in text


def test_one_seed_claims_no_difference(tmp_path):
    text, _ = said(plant(tmp_path, {"cnn": curve(0.1, 0.5), "vit": curve(0.3, 0.5)}, seeds=1))
    assert "no size from 20 to 1,600 images tells them apart (one seed has no interval)" in text
    assert "ahead" not in text and "One seed says little: intervals are missing." in text


def test_an_error_that_is_there_on_the_training_views_is_said_to_be_of_steps_or_size(tmp_path):
    true = {"cnn": curve(0.03, 0.1), "vit": curve(0.5, 0.1)}
    for train, names in ((0.99, []), (0.96, ["cnn"]), (0.6, ["cnn", "vit"])):
        text, _ = said(plant(tmp_path / str(train), true, train=train, noise=0.0))
        found = re.findall(r"With the most images (\w+) answers ([\d.]+)% of its training", text)
        assert found == [(name, f"{100 * train:.1f}") for name in names]


def test_five_sizes_claim_no_floor(tmp_path):
    true = {"cnn": curve(0.1, 0.5, 0.02), "vit": curve(0.3, 0.5, 0.02)}
    text, _ = said(plant(tmp_path, true, sizes=SIZES[:5]))
    assert "5 sizes identify no floor" in text and "above a floor" not in text


def test_one_encoder_and_one_size_have_a_report_too(tmp_path):
    text, _ = said(plant(tmp_path / "a", {"cnn": curve(0.1, 0.5)}))
    assert "ahead" not in text and "falls as D^-0.5" in text
    text, _ = said(
        plant(tmp_path / "b", {"cnn": curve(0.1, 0.5), "vit": curve(0.3, 0.5)}, sizes=[400])
    )
    assert "cnn is ahead of vit at 1 of 1 sizes" in text and "falls as" not in text
    for name in "ab":
        report.write(tmp_path / name, tmp_path / name / "report", 50)


@pytest.mark.parametrize("seed", range(12))
def test_no_summary_places_a_crossing_outside_of_the_sizes(seed, tmp_path):
    """Random laws, which meet anywhere: what is said of a crossing lies within the sizes, and is
    said only where both sides of it were seen."""
    rng = np.random.default_rng(seed)
    true = {
        name: curve(rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.9), rng.choice([0, 0.02]))
        for name in ("cnn", "hybrid", "vit")
    }
    study = plant(tmp_path, true, noise=rng.uniform(0.01, 0.2), seed=seed)
    text, views = said(study, 100)
    measure = views[0].measures[0]
    kinds = [pair.verdict.kind for pair in measure.ordered]
    assert text.count("they cross at") == kinds.count("crossing")
    assert text.count("no crossing in range") == kinds.count("lead")
    for found in re.findall(
        r"cross at ([\d,]+) images \(90% interval ([\d,]+) to ([\d,]+)\)", text
    ):
        for number in found:
            assert SIZES[0] <= int(number.replace(",", "")) <= SIZES[-1]
    for pair in measure.ordered:
        if pair.verdict.kind == "crossing":
            assert {row.sign for row in pair.rows} >= {-1, 1}


def test_the_page_needs_nothing_else_and_tables_hold_every_number(tmp_path):
    true = {"cnn": curve(0.1, 0.4), "vit": curve(0.2, 0.5)}
    study = plant(tmp_path, true, bias=True)
    lost = study.plan.grid.cells[-1]
    broken = plant(tmp_path / "x", true, leave_out=[lost], bias=True)
    results.fail(results.folder_of(tmp_path / "x", broken.plan, lost), "it <broke>")
    out = tmp_path / "out"
    page = report.write(tmp_path / "x", out, 60).read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "it &lt;broke&gt;" in page and "41 of 42 cells" in page
    for part in ("Against data: accuracy", "Against data: linear probe", "Against data: kNN"):
        assert part in page
    assert "Measures of bias against data" in page
    pictures = {file.name for file in out.glob("*.png")}
    wanted = ("accuracy", "linear", "knn", "pairs", "cost", "bias", "bias_field")
    assert pictures == {f"supervised_steps_{key}.png" for key in wanted}
    with (out / "points.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    found = [r for r in rows if (r["number"], r["encoder"]) == ("accuracy/top1", "cnn")]
    scores = [
        [
            100 * r["numbers"]["accuracy/top1"]
            for r in broken.results
            if r["cell"]["encoder"] == "cnn" and r["images"] == D
        ]
        for D in SIZES
    ]
    np.testing.assert_allclose(
        [float(r["mean"]) for r in found], np.mean(scores, axis=1), rtol=1e-5
    )
    _, low, high = curves.mean_interval(scores)
    np.testing.assert_allclose([float(r["mean_low"]) for r in found], low, rtol=1e-5)
    np.testing.assert_allclose([float(r["mean_high"]) for r in found], high, rtol=1e-5)
    numbers = {r["number"] for r in rows}
    assert numbers >= {"bias/distance", "bias_field/size"} and "shuffle/top1" not in numbers
    record = json.loads((out / "report.json").read_text())
    assert record["failed"] == {lost.name: "it <broke>"}
    assert record["verdicts"][0]["verdict"] == "lead" and len(record["fits"]) == 6
    with (out / "cells.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 41


def test_a_folder_of_nothing_is_named(tmp_path):
    with pytest.raises(ValueError, match="is no folder of a study"):
        report.write(tmp_path, tmp_path / "report")
    plant(tmp_path, {"cnn": curve(0.1, 0.5)}, leave_out=_all(tmp_path))
    with pytest.raises(ValueError, match="has no result to report: vitjax sweep has not finished"):
        report.write(tmp_path, tmp_path / "report")


def _all(tmp_path):
    return plant(tmp_path / "all", {"cnn": curve(0.1, 0.5)}).plan.grid.cells
