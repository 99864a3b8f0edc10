"""Numbers as the reports write them: with intervals, beside chance, beside what their evaluators are worth."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from common.schema import target_name
from scoring.metrics import METRICS, arrow, written

NOTHING = "–"  # for what could not be computed


@dataclass(frozen=True)
class TableCell:
    """A value and its 95 % interval as texts; the interval may be empty."""

    value: str
    interval: str = ""


@dataclass(frozen=True)
class Row:
    """A metric in the table of several M: `level` 1 is a part of the row above, `own_accuracy` its evaluators' own dev accuracy."""

    key: str
    title: str
    arrow: str
    own_accuracy: str
    cells: list[TableCell]
    level: int = 0


def cell(m: dict | None, key: str) -> TableCell:
    """A metric of an M; a dash for what could not be computed."""
    if m is None or m.get(key) is None:
        return TableCell(NOTHING)
    return TableCell(written(key, m[key]), bracket(key, m.get("ci95", {}).get(key)))


def bracket(key: str, interval: list[float] | None) -> str:
    """``[0.760, 0.818]`` in the metric's form; empty without an interval."""
    return f"[{written(key, interval[0])}, {written(key, interval[1])}]" if interval else ""


def share(value: float | None) -> str:
    """An accuracy as the tables write it."""
    return NOTHING if value is None else f"{value:.3f}"


def metric_rows(columns: list[dict | None], evaluators: dict[str, dict]) -> list[Row]:
    """The rows of a table that has one column per M; accuracy is followed by every attribute's own.

    A metric, or an attribute, that has no value in any of them is left out.
    """
    known, rows = [m for m in columns if m], []
    attributes = list(dict.fromkeys(name for m in known for name in m.get("attributes", {})))
    for key, metric in METRICS.items():
        if all(m.get(key) is None for m in known):
            continue
        own_accuracy = own_accuracy_of(key, attributes, evaluators) if metric.by_evaluators else ""
        rows.append(Row(key, metric.title, arrow(key), own_accuracy, [cell(m, key) for m in columns]))
        if key == "accuracy_mean" and len(attributes) > 1:
            parts = [_attribute_row(name, columns, evaluators) for name in attributes]
            rows += [row for row in parts if any(part.value != NOTHING for part in row.cells)]
    return rows


def _attribute_row(name: str, columns: list[dict | None], evaluators: dict[str, dict]) -> Row:
    cells = []
    for m in columns:
        own, intervals = ((m or {}).get(part) or {} for part in ("attributes", "ci95"))
        cells.append(
            TableCell(
                share((own.get(name) or {}).get("accuracy")),
                bracket("accuracy_mean", intervals.get(f"{name}.accuracy")),
            )
        )
    return Row(
        f"accuracy of {name}",
        name,
        arrow("accuracy_mean"),
        share(evaluators.get(name, {}).get("accuracy")),
        cells,
        level=1,
    )


def own_accuracy_of(key: str, attributes: list[str], evaluators: dict[str, dict]) -> str:
    """The dev accuracy of the evaluators that a metric rests on; a range where there are several."""
    names = ["nli"] if key == "nli" else attributes
    found = [
        evaluators[name]["accuracy"] for name in names if evaluators.get(name, {}).get("accuracy") is not None
    ]
    if not found:
        return "unknown"
    return share(found[0]) if len(set(found)) == 1 else f"{min(found):.3f} to {max(found):.3f}"


def evaluators_line(evaluators: dict[str, dict]) -> str:
    """One line: every evaluator's own accuracy on dev data."""
    texts = [
        f"{'coherence (NLI)' if name == 'nli' else name} {share(record.get('accuracy'))}"
        for name, record in evaluators.items()
    ]
    return ", ".join(texts) or "not recorded"


def readable(target: str) -> str:
    """``plain+optimistic`` -> ``plain, optimistic``."""
    return target.replace("+", ", ")


def chance(by_target: dict[str, dict], aspects: dict[str, list[str]]) -> tuple[float, float] | None:
    """Mean and joint accuracy of a blind guess over the targets of a run, weighted by their replies.

    Args:
        by_target: target -> M.
        aspects: attribute -> its aspects.

    Returns:
        (mean, joint): 1 / aspects, averaged and multiplied over the attributes that a target names. None where an
        aspect of a target is unknown.
    """
    size = {aspect: len(known) for known in aspects.values() for aspect in known}
    means, joints, weights = [], [], []
    for target, m in by_target.items():
        named = target.split("+")
        if target == target_name({}):
            continue
        if not all(aspect in size for aspect in named):
            return None
        means.append(sum(1 / size[aspect] for aspect in named) / len(named))
        joints.append(prod(1 / size[aspect] for aspect in named))
        weights.append(m.get("n") or 1)
    return (_average(means, weights), _average(joints, weights)) if weights else None


def _average(values: Iterable[float], weights: list[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights)) / sum(weights)
