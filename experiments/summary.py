"""Rows as the table and the picture need them: the seeds of a setting taken together, and which setting stands for a model."""

import json
import math
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from experiments.measures import COST, columns_of, seconds_per_1000
from experiments.plan import Plan

DIALS = ("weights", "strength", "best_of", "n")  # generation options that are a method's strength
WRITING = ("latents", "decoding", "choosing")  # what writing replies consists of
TOLERANCE = 0.05  # coherence that a setting may lose against the best uncontrolled one


@dataclass(frozen=True)
class Summary:
    """One setting of a model over its seeds.

    Attributes:
        swept: its crossed options, without those that are empty.
        dial: its strength, where it has one that is a number.
        values: means over the seeds; None where no seed has the number.
        ends: of joint accuracy and coherence: the 95 % interval with one seed, least and greatest with several.
        sampler: whether the sampler warned.
    """

    model: str
    kind: str
    swept: dict[str, str]
    options: dict
    dial: float | None
    seeds: int
    values: dict[str, float | None]
    ends: dict[str, tuple[float, float] | None]
    sampler: bool

    @property
    def uncontrolled(self) -> bool:
        """Whether nothing steers these replies."""
        return self.kind == "uncontrolled" or (
            self.kind == "cvae" and self.options.get("algorithm") == "none"
        )

    @property
    def setting(self) -> str:
        """``weights=10 start=mean``."""
        return " ".join(f"{name.removeprefix('training.')}={value}" for name, value in self.swept.items())

    @property
    def line(self) -> str:
        """Equal for settings of a model that differ in their strength alone."""
        return json.dumps(
            [self.model, {name: value for name, value in self.swept.items() if name not in DIALS}]
        )


def summaries(work: Plan, rows: list[dict[str, str]]) -> list[Summary]:
    """The plan's settings that are measured, in the plan's order; rows of other plans in the same file do not count, nor cells
    with held-out combinations (`experiments.unseen`)."""
    by_key = {row.get("key"): row for row in rows}
    groups: dict[str, list[tuple]] = {}
    for cell in work.cells:
        if (row := by_key.get(cell.key)) and not cell.held_out:
            same = json.dumps(
                [
                    cell.model.label,
                    {k: v for k, v in cell.model.options.items() if k != "seed"},
                    cell.options,
                ],
                sort_keys=True,
            )
            groups.setdefault(same, []).append((cell, row))
    return [_summary(group, [*columns_of(work.schema), *COST]) for group in groups.values()]


def _summary(group: list[tuple], columns: list[str]) -> Summary:
    cell, rows = group[0][0], [row for _, row in group]
    values = {}
    for name in columns:
        known = _numbers(rows, name)
        values[name] = float(np.mean(known)) if known else None
    if values["seconds_per_1000"] is None:
        values["seconds_per_1000"] = _rate(rows)
    ends = {}
    for name in ("accuracy_joint", "nli"):
        if len(rows) > 1:
            known = _numbers(rows, name)
            ends[name] = (min(known), max(known)) if known else None
        else:
            ends[name] = (
                (values[f"{name}_low"], values[f"{name}_high"]) if values[f"{name}_low"] is not None else None
            )
    dial = next(
        (
            number
            for name in DIALS
            if name in cell.swept and (number := _number(cell.options[name])) is not None
        ),
        None,
    )
    warned = any("sampler" in row.get("warnings", "") for row in rows)
    swept = {name: str(value) for name, value in cell.swept.items()}
    return Summary(
        cell.model.label, cell.model.kind, swept, cell.options, dial, len(rows), values, ends, warned
    )


def _rate(rows: list[dict[str, str]]) -> float | None:
    """Seconds for 1,000 replies of rows that were measured before that was a column."""
    spent = sum(sum(_numbers(rows, f"seconds_{part}")) for part in WRITING)
    return seconds_per_1000(spent, int(sum(_numbers(rows, "replies_n")))) if spent else None


def _numbers(rows: list[dict[str, str]], name: str) -> list[float]:
    """A column's numbers; raises `InputError` for a cell that holds none."""
    numbers = {row["key"]: _number(row[name]) for row in rows if row.get(name)}
    for row in rows:
        if row["key"] in numbers and numbers[row["key"]] is None:
            raise InputError(
                f"results.csv, row {row['key']}: {name}: expected a number, found {row[name]!r:.40}"
            )
    return list(numbers.values())


def _number(value: object) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def best_of_models(known: list[Summary]) -> dict[str, tuple[Summary, bool]]:
    """By model the setting that stands for it, and whether it is within the tolerance.

    The rule: the highest joint accuracy among the settings whose coherence is within `TOLERANCE` of the best
    uncontrolled setting's; where a model has none, or nothing is uncontrolled, the highest joint accuracy. Without joint
    accuracy (human replies, which are labelled for one attribute each) the mean accuracy counts.
    """
    free = [s.values["nli"] for s in known if s.uncontrolled and s.values["nli"] is not None]
    floor = max(free) - TOLERANCE if free else None
    best = {}
    for model in dict.fromkeys(summary.model for summary in known):
        settings = [summary for summary in known if summary.model == model]
        coherent = [
            s
            for s in settings
            if floor is not None and s.values["nli"] is not None and s.values["nli"] >= floor
        ]
        best[model] = (max(coherent or settings, key=control_of), bool(coherent))
    return best


def control_of(summary: Summary) -> float:
    """Joint accuracy, or the mean accuracy where there is none: what settings are ranked by."""
    joint, mean = summary.values["accuracy_joint"], summary.values["accuracy_mean"]
    return joint if joint is not None else mean if mean is not None else -1.0
