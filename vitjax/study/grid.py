"""The grid of a study: which cells there are, and the config of each of their runs.

A cell is an encoder, an objective, a share of the training data, a budget and a seed. Within it the
same number of learning rates is tried for every encoder; the rate is chosen on held-out train data,
and the test split is seen once, by the run of that rate.
"""

import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vitjax import config as config_lib
from vitjax.lookup import nearest

LABEL = re.compile(r"[A-Za-z0-9.+-]+")  # labels name folders
# Sections of a config that say where or how a run goes on, not what comes out of it.
NEUTRAL = ("mesh", "sharding", "log", "checkpoint")
PLACES = ("data_dir", "path")


class Cell(NamedTuple):
    """One point of the grid; labels of encoder, objective and budget."""

    encoder: str
    objective: str
    fraction: float
    budget: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder; with another digest, of another study."""
        return f"{self.encoder}_{self.objective}_f{self.fraction:.4g}_{self.budget}_s{self.seed}"

    @property
    def text(self) -> str:
        """For people."""
        share = f"{100 * self.fraction:.3g}%"
        return f"{self.encoder}, {self.objective}, {share}, {self.budget}, seed {self.seed}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """What `sweep(arg)` of a config gives, by keyword.

    encoders: label -> section `encoder`; the order is that of the report, the strongest inductive
    bias first. fractions: shares of the train split, nested. seeds: each draws its own subsets,
    weights and order, the same for every encoder. lrs: the rates tried in each cell, or encoder ->
    rates, as many for each. budgets: label -> {"steps": n}, {"epochs": n}, or {"steps": n,
    "flops_of": encoder}: as many FLOPs as n steps of that encoder take. objectives: label ->
    sections that replace those of the config ({} for none). choose: the number of an evaluator,
    highest is best, that chooses the rate on the validation split, or objective -> number. warmup:
    share of a run over which the rate rises.
    """

    encoders: Mapping[str, Mapping[str, Any]]
    fractions: Sequence[float]
    seeds: Sequence[int]
    lrs: Sequence[float] | Mapping[str, Sequence[float]]
    budgets: Mapping[str, Mapping[str, Any]]
    objectives: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=lambda: {"supervised": {}}
    )
    choose: str | Mapping[str, str] = "accuracy/top1"
    warmup: float = 0.05

    def __post_init__(self):
        for key in ("encoders", "budgets", "objectives"):
            labels = getattr(self, key)
            if not isinstance(labels, Mapping) or not labels:
                raise ValueError(f"sweep.{key}={labels!r}: expected labels with their sections")
            for label in labels:
                if not LABEL.fullmatch(label):
                    raise ValueError(
                        f"sweep.{key}: {label!r} is no label: letters, digits, '.', '+' and '-'"
                    )
        for key, least in (("fractions", 0), ("seeds", -1)):
            values = getattr(self, key)
            if not isinstance(values, Sequence) or not values or len(set(values)) < len(values):
                raise ValueError(f"sweep.{key}={values!r}: expected a list of different numbers")
            if not all(isinstance(each, int | float) and each > least for each in values):
                raise ValueError(f"sweep.{key}={values!r}: expected numbers above {least}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"sweep.warmup={self.warmup!r}: expected a share in [0, 1)")
        self._check_rates()
        for label, budget in self.budgets.items():
            self._check_budget(label, budget)
        for objective in self.objectives:
            if "/" not in self.chosen_by(objective):
                raise ValueError(f"sweep.choose={self.choose!r}: expected EVALUATOR/NUMBER")

    def _check_rates(self):
        if isinstance(self.lrs, Mapping) and set(self.lrs) != set(self.encoders):
            raise ValueError(
                f"sweep.lrs names {', '.join(self.lrs)}; expected {', '.join(self.encoders)}"
            )
        counts = {label: len(self.rates(label)) for label in self.encoders}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            raise ValueError(
                f"sweep.lrs tries {counts}: expected as many rates for every encoder, or the one "
                "with more would be the better tuned"
            )

    def _check_budget(self, label, budget):
        kinds = ({"steps"}, {"epochs"}, {"steps", "flops_of"})
        if not isinstance(budget, Mapping) or set(budget) not in kinds:
            raise ValueError(
                f"sweep.budgets.{label}={budget!r}: expected steps, epochs, or steps and flops_of"
            )
        reference = budget.get("flops_of")
        if reference is not None and reference not in self.encoders:
            raise ValueError(
                f"sweep.budgets.{label}.flops_of={reference!r} is no encoder of the sweep; "
                f"{nearest(reference, self.encoders)}"
            )

    def rates(self, encoder: str) -> tuple[float, ...]:
        """The learning rates tried for an encoder."""
        return tuple(self.lrs[encoder] if isinstance(self.lrs, Mapping) else self.lrs)

    def chosen_by(self, objective: str) -> str:
        """EVALUATOR/NUMBER."""
        if isinstance(self.choose, str):
            return self.choose
        if objective not in self.choose:
            raise ValueError(f"sweep.choose has no {objective!r}: name a number for each objective")
        return self.choose[objective]

    @property
    def cells(self) -> list[Cell]:
        """In the order they are run: one seed of everything first."""
        return [
            Cell(encoder, objective, float(fraction), budget, seed)
            for seed in self.seeds
            for objective in self.objectives
            for budget in self.budgets
            for fraction in self.fractions
            for encoder in self.encoders
        ]


class Plan(NamedTuple):
    """config: what all runs share, a plain dict. grid: what differs. source: the config's name."""

    config: dict
    grid: Grid
    source: str = ""

    def digest(self, cell: Cell) -> str:
        """8 hex digits: equal where all settings that a cell's numbers depend on are."""
        budget = self.grid.budgets[cell.budget]
        reference = self.grid.encoders.get(budget.get("flops_of"))
        settings = {k: v for k, v in self.shared(cell).items() if k not in NEUTRAL}
        settings["data"] = {k: v for k, v in settings["data"].items() if k not in PLACES}
        parts = [settings, self.grid.rates(cell.encoder), budget, reference, self.grid.warmup]
        parts.append(self.grid.chosen_by(cell.objective))
        text = json.dumps(parts, sort_keys=True, default=list)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def shared(self, cell: Cell) -> dict:
        """What all runs of a cell have, and its test: no rate and no length yet."""
        settings = copy.deepcopy(self.config) | copy.deepcopy(
            dict(self.grid.objectives[cell.objective])
        )
        for unit in config_lib.DURATIONS:
            settings.pop(unit, None)
        settings["encoder"] = dict(self.grid.encoders[cell.encoder])
        settings["seed"] = cell.seed
        settings["data"] |= {"fraction": cell.fraction, "subset_seed": cell.seed}
        return settings

    def trial(self, cell: Cell, lr: float, steps: int) -> dict:
        """The config of the run of one rate. It knows no test split, and evaluates at its end what
        chooses the rate, nothing else."""
        settings = self.shared(cell)
        settings["steps"] = steps
        settings["data"]["test"] = None
        schedule = dict(settings["optimizer"].get("schedule", {"name": "cosine"}))
        schedule = {k: v for k, v in schedule.items() if not k.startswith("warmup_")}
        schedule["warmup_steps"] = round(self.grid.warmup * steps)
        settings["optimizer"] = settings["optimizer"] | {"lr": lr, "schedule": schedule}
        evaluator = self.grid.chosen_by(cell.objective).partition("/")[0]
        if evaluator not in settings.get("evaluators", {}):
            raise ValueError(
                f"sweep.choose={self.grid.chosen_by(cell.objective)!r}: the config has no "
                f"evaluators.{evaluator}"
            )
        settings["evaluators"] = {evaluator: settings["evaluators"][evaluator]}
        evaluate = settings.get("evaluate", {})
        settings["evaluate"] = {k: v for k, v in evaluate.items() if not k.startswith("every_")}
        settings["log"] = settings.get("log", {}) | {"figures": False}  # two fifths of a small run
        settings["checkpoint"] = {"keep": 1} | {
            k: v for k, v in settings.get("checkpoint", {}).items() if k.startswith("every_")
        }
        return settings


def load(path: str) -> Plan:
    """FILE[:ARGS], a config with get_config(arg) and sweep(arg). Raises ConfigError."""
    module, arg = config_lib.open_file(path)
    if not hasattr(module, "sweep"):
        raise config_lib.ConfigError(
            f"--config={path!r} has no sweep(arg): a study is a config with a grid, as "
            "configs/study_digits.py"
        )
    section = module.sweep(arg)
    config_lib.check(Grid, section, "sweep")
    config = module.get_config(arg).to_dict()
    return Plan(json.loads(json.dumps(config)), Grid(**json.loads(json.dumps(section))), path)
