"""How a grid's models stand to each other as frontiers: hypervolume with intervals, and where one is ahead of the others."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import InputError
from common.files import replacing
from experiments.hypervolume import Volume, available, hypervolume
from experiments.lead import Lead, Points, lead
from experiments.plan import Cell, Plan
from experiments.replies import by_context, replies_of
from experiments.summary import Summary, best_of_models
from scoring.bootstrap import percentiles

COLUMNS = (
    "model", "settings", "seeds", "hypervolume", "hypervolume_low", "hypervolume_high",
    "behind_ours", "behind_ours_low", "behind_ours_high", "ours", "verdict", "from", "to", "least", "most",
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """A model's place.

    Attributes:
        volume: of its frontier; None without `pymoo`.
        behind: hypervolume that it lacks against our model's, (value, 95 % interval or None); None for our own, or without `pymoo`.
        lead: our model's over it; None for our own.
    """

    model: str
    volume: Volume | None
    behind: tuple[float, list[float] | None] | None
    lead: Lead | None


def standings(work: Plan, known: list[Summary], rows: list[dict[str, str]]) -> list[Standing]:
    """Every model that has joint accuracy and coherence, our own first, then by hypervolume; empty where nothing is ours."""
    ours = our_model(work, known)
    cells = measured_cells(work, rows)
    if ours not in cells:
        return []
    points = {model: points_of_seeds(by_seed) for model, by_seed in cells.items()}
    volumes = {model: _volume(work, by_seed) for model, by_seed in cells.items()} if available() else {}
    all_standings = []
    for model in cells:
        other = model != ours
        all_standings.append(
            Standing(
                model,
                volumes.get(model),
                _behind(volumes[ours], volumes[model]) if volumes and other else None,
                lead(ours, model, points[ours], points[model]) if other else None,
            )
        )
    return sorted(
        all_standings, key=lambda one: (one.model != ours, -(one.volume.value if one.volume else 0.0))
    )


def our_model(work: Plan, known: list[Summary]) -> str | None:
    """The grid's ``ours``, else of the models of kind ``cvae`` that are controlled the one whose best setting is best."""
    if work.grid.ours is not None:
        return work.grid.ours
    best = [summary for summary, _ in best_of_models(known).values() if summary.kind == "cvae"]
    best = [s for s in best if not s.uncontrolled and s.values["accuracy_joint"] is not None]
    return max(best, key=lambda s: s.values["accuracy_joint"]).model if best else None


Measured = tuple[Cell, float, float]  # with joint accuracy and coherence


def measured_cells(work: Plan, rows: list[dict[str, str]]) -> dict[str, dict[int, list[Measured]]]:
    """Model -> seed -> its cells that have joint accuracy and coherence, those with held-out combinations left out."""
    by_key, by_model = {row.get("key"): row for row in rows}, {}
    for cell in work.cells:
        row = by_key.get(cell.key)
        if row is None or cell.held_out or not row.get("accuracy_joint") or not row.get("nli"):
            continue
        try:
            numbers = float(row["accuracy_joint"]), float(row["nli"])
        except ValueError:
            raise InputError(
                f"results.csv, row {cell.key}: accuracy_joint and nli: expected numbers, found {row['accuracy_joint']!r:.40} and {row['nli']!r:.40}"
            ) from None
        by_model.setdefault(cell.model.label, {}).setdefault(cell.model.seed, []).append((cell, *numbers))
    return by_model


def points_of_seeds(cells: dict[int, list[Measured]]) -> list[Points]:
    """(joint accuracy, coherence) of the settings, a list per seed."""
    return [[(joint, coherence) for _, joint, coherence in settings] for settings in cells.values()]


def _volume(work: Plan, cells: dict[int, list[Measured]]) -> Volume:
    """A model's hypervolume, of the settings that all of its seeds have."""
    seeds = [{_setting(cell): (cell, *numbers) for cell, *numbers in measured} for measured in cells.values()]
    common = [name for name in seeds[0] if all(name in other for other in seeds)]
    common = common or list(dict.fromkeys(name for settings in seeds for name in settings))
    complete = all(name in settings for settings in seeds for name in common)
    points = np.array(
        [np.mean([settings[name][1:] for settings in seeds if name in settings], axis=0) for name in common]
    )
    sums = _sums(work, [[settings[name][0] for name in common] for settings in seeds]) if complete else None
    return hypervolume(points, sums, len(seeds))


def _setting(cell: Cell) -> tuple:
    return tuple(sorted((name, str(value)) for name, value in cell.swept.items()))


def _sums(work: Plan, cells: list[list[Cell]]) -> np.ndarray | None:
    """[seeds, settings, contexts, 3]; None where some replies were not kept."""
    order = {context: i for i, context in enumerate(dict.fromkeys(r.context for r in work.requests))}
    if len(order) < 2:
        return None
    sums = []
    for seed_cells in cells:
        kept = [replies_of(work.grid.folder, cell.key) for cell in seed_cells]
        if any(scores is None for scores in kept):
            return None
        sums.append([by_context(scores, order) for scores in kept if scores is not None])
    return np.array(sums)


def _behind(ours: Volume, other: Volume) -> tuple[float, list[float] | None]:
    value = ours.value - other.value
    if ours.draws is None or other.draws is None:
        return value, None
    return value, percentiles(ours.draws - other.draws)


def write_standings(path: Path, ranking: list[Standing]) -> None:
    """A line per model with everything that `Standing` has."""
    with replacing(path, newline="") as out:
        writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_row, ranking))


def _row(one: Standing) -> dict:
    row: dict = {"model": one.model}
    if one.volume:
        low, high = one.volume.ci95 or ("", "")
        row |= {"settings": one.volume.settings, "seeds": one.volume.seeds, "hypervolume": one.volume.value}
        row |= {"hypervolume_low": low, "hypervolume_high": high}
    if one.behind:
        low, high = one.behind[1] or ("", "")
        row |= {"behind_ours": one.behind[0], "behind_ours_low": low, "behind_ours_high": high}
    if one.lead:
        lead = one.lead
        row |= {"ours": lead.ours, "verdict": lead.verdict, "from": lead.low, "to": lead.high}
        row |= {"least": lead.least, "most": lead.most}
    return row
