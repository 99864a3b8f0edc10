"""What cells with held-out combinations come to: joint accuracy on seen and unseen ones, their splits and seeds taken together."""

from dataclasses import dataclass

import numpy as np

from experiments.measures import difference, parted
from experiments.plan import Cell, Plan
from experiments.replies import ReplyScores, replies_of
from experiments.splits import OPTION
from scoring.bootstrap import Bootstrap, mean_of


@dataclass(frozen=True)
class Drop:
    """A setting of a model over the splits of its combinations and its seeds.

    Attributes:
        cells: splits times seeds.
        seen, unseen: joint accuracy on the combinations of either kind.
        ci95: of seen minus unseen, a bootstrap over contexts; None where replies were not kept.
    """

    model: str
    setting: str
    cells: int
    seen: float
    unseen: float
    ci95: list[float] | None

    @property
    def drop(self) -> float:
        """Joint accuracy lost from seen to unseen."""
        return self.seen - self.unseen

    @property
    def gap(self) -> float | None:
        """The same as a share of what is reached on seen ones, CompMCTG's G; None where that is 0."""
        return self.drop / self.seen if self.seen else None


def drops(work: Plan, rows: list[dict[str, str]]) -> list[Drop]:
    """Every setting with held-out combinations that is measured, its splits and seeds taken together."""
    by_key = {row.get("key"): row for row in rows}
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in work.cells:
        if cell.held_out and cell.key in by_key:
            swept = {k: v for k, v in cell.swept.items() if k != f"training.{OPTION}"}
            setting = " ".join(f"{k.removeprefix('training.')}={v}" for k, v in swept.items())
            groups.setdefault((cell.model.label, setting), []).append(cell)
    return [_drop(work, *name, cells, by_key) for name, cells in groups.items()]


def _drop(work: Plan, model: str, setting: str, cells: list[Cell], by_key: dict) -> Drop:
    kept = [replies_of(work.grid.folder, cell.key) for cell in cells]
    known = [(cell, scores) for cell, scores in zip(cells, kept) if scores is not None]
    if len(known) == len(cells):
        return Drop(model, setting, len(cells), *pooled(known))
    seen, unseen = (
        float(np.mean([float(by_key[cell.key][f"{kind}_joint"]) for cell in cells]))
        for kind in ("seen", "unseen")
    )
    return Drop(model, setting, len(cells), seen, unseen, None)


def pooled(cells: list[tuple[Cell, ReplyScores]]) -> tuple[float, float, list[float] | None]:
    """Joint accuracy on seen and on unseen combinations over all cells' replies, and the drop's bootstrap interval over contexts."""
    contexts = [context for _, scores in cells for context in scores.contexts]
    values = np.concatenate([parted(scores.joint, scores.targets, cell.held_out) for cell, scores in cells])
    total = values.sum(axis=0)
    interval = Bootstrap(contexts).intervals(values, {"drop": difference}).get("drop")
    return float(mean_of(0, 1)(total)), float(mean_of(2, 3)(total)), interval
