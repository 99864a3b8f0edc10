"""Dials: how the replies follow one attribute's strength while the others' are held.

Rows are scored generations with two more keys, ``dial`` (the attribute whose strength is varied) and ``strength``; every context,
target and seed is there at every strength, written from the same noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from common.schema import Schema, target_name
from scoring.bootstrap import Bootstrap, mean_of

TOLERANCE = 0.05  # probability that a curve may fall behind its own highest value and still count as monotone


@dataclass(frozen=True)
class Sweep:
    """One attribute's dial, of `C` contexts x `R` replies (`T` targets x seeds) x `S` strengths.

    Attributes:
        strengths: rising, [S].
        contexts: [C].
        own: the classifier's probability of the aspect asked for, [C, R, S].
        held: the same of the other attributes' aspects, their mean; NaN where there are none.
        coherence: [C, R, S].
        targets: T.
    """

    attribute: str
    strengths: list[float]
    contexts: list[tuple[str, ...]]
    own: np.ndarray
    held: np.ndarray
    coherence: np.ndarray
    targets: int


def sweep_of(rows: Sequence[dict], attribute: str, schema: Schema) -> Sweep:
    """The sweep of one attribute.

    Raises:
        InputError: where some context, target and seed lack a strength, or scores.
    """
    own_rows = [row for row in rows if row["dial"] == attribute]
    strengths = sorted({float(row["strength"]) for row in own_rows})
    contexts = list(dict.fromkeys(tuple(row["context"]) for row in own_rows))
    series = list(dict.fromkeys(_series(row) for row in own_rows))
    targets = len({name for name, _ in series})
    values = np.full((3, len(contexts), len(series), len(strengths)), np.nan)
    places = [{item: i for i, item in enumerate(items)} for items in (contexts, series, strengths)]
    for row in own_rows:
        at = (
            places[0][tuple(row["context"])],
            places[1][_series(row)],
            places[2][float(row["strength"])],
        )
        chances = {name: row["probabilities"][name][aspect] for name, aspect in row["target"].items()}
        others = [chance for name, chance in chances.items() if name != attribute]
        values[(slice(None), *at)] = chances[attribute], np.mean(others) if others else np.nan, row["nli"]
    if not own_rows or np.isnan(values[0]).any():
        raise InputError(
            f"the sweep of {attribute} is not complete: {len(own_rows)} scored replies for {len(contexts)} contexts x {len(series)} targets and seeds x {len(strengths)} strengths"
        )
    return Sweep(attribute, strengths, contexts, *values, targets)


def _series(row: dict) -> tuple[str, int]:
    return target_name(row["target"]), row.get("seed") or 0


def is_monotone(curves: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """Whether curves [..., S] over rising strength never fall more than `tolerance` behind the highest value before; [...]."""
    return (np.maximum.accumulate(curves, axis=-1) - curves).max(axis=-1) <= tolerance + 1e-12


def summary(sweep: Sweep, seed: int = 0) -> dict:
    """What a sweep says, intervals over contexts.

    Returns:
        ``monotone_contexts``: share of contexts whose curve, the mean over targets and seeds, is monotone (`is_monotone`);
        ``monotone_replies``: the same of every context, target and seed alone; ``gain``: probability of the aspect asked for at the
        greatest strength minus that at the least; ``held_change``: the same of the other attributes' aspects; ``held_largest``:
        the strength at which their mean is farthest from that at the least; ``points``: the means at every strength.
    """
    curves = sweep.own.mean(axis=1)  # [C, S]
    single = is_monotone(sweep.own).mean(axis=1)  # [C]: of a context's replies
    held = sweep.held.mean(axis=(0, 1))
    farthest = int(np.abs(held - held[0]).argmax()) if not np.isnan(held).any() else None
    return {
        "attribute": sweep.attribute,
        "contexts": len(sweep.contexts),
        "targets": sweep.targets,
        "replies": sweep.own.shape[1] // sweep.targets,
        "strengths": sweep.strengths,
        "tolerance": TOLERANCE,
        "monotone_contexts": _over_contexts(sweep, is_monotone(curves).astype(float), seed),
        "monotone_replies": _over_contexts(sweep, single, seed),
        "gain": _over_contexts(sweep, curves[:, -1] - curves[:, 0], seed),
        "held_change": _over_contexts(sweep, _change(sweep.held), seed),
        "held_largest": None
        if farthest is None
        else {"strength": sweep.strengths[farthest], "value": float(held[farthest] - held[0])},
        "points": [_point(sweep, i, seed) for i in range(len(sweep.strengths))],
    }


def _change(values: np.ndarray) -> np.ndarray:
    means = values.mean(axis=1)
    return means[:, -1] - means[:, 0]


def _point(sweep: Sweep, i: int, seed: int) -> dict:
    return {
        "strength": sweep.strengths[i],
        "probability": _over_contexts(sweep, sweep.own[..., i].mean(axis=1), seed),
        "held": _over_contexts(sweep, sweep.held[..., i].mean(axis=1), seed),
        "coherence": _over_contexts(sweep, sweep.coherence[..., i].mean(axis=1), seed),
    }


def _over_contexts(sweep: Sweep, values: np.ndarray, seed: int) -> dict:
    """The mean of a value per context with its bootstrap interval."""
    if np.isnan(values).any():
        return {"value": None, "ci95": None}
    columns = np.stack([values, np.ones(len(values))], axis=1)
    found = Bootstrap(sweep.contexts, seed=seed).intervals(columns, {"x": mean_of(0, 1)})
    return {"value": float(values.mean()), "ci95": found.get("x")}


def csv_rows(summaries: Sequence[dict]) -> list[dict]:
    """A row per attribute and strength, for a CSV file."""
    rows = []
    for one in summaries:
        for point in one["points"]:
            row = {"attribute": one["attribute"], "strength": point["strength"]}
            for name in ("probability", "held", "coherence"):
                low, high = point[name]["ci95"] or (None, None)
                row |= {name: point[name]["value"], f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
    return rows
