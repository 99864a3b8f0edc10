"""What one process does: load the evaluators once and every model once, and say of each cell what became of it."""

import json
import shutil
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from common.devices import release_memory
from common.jsonl import write_jsonl
from common.peak_memory import held
from common.provenance import device_name, fingerprint, git_revision, package_versions
from experiments.evaluators import Evaluators
from experiments.measures import UNSEEN, columns_of, measured, seconds_per_1000, unseen
from experiments.plan import Cell, Plan, kinds
from experiments.rescoring import EarlierReplies
from experiments.system import TrainedSystem, Written
from generation.kept import generations_of
from generation.record import timed

Scored = tuple[Written, list[dict], dict[str, float]]  # replies, their generations, seconds by part


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell.

    Attributes:
        row: its numbers; None where it failed.
        failure: why there is no row.
        loading: seconds that loading or training its model took, where this is the model's first cell.
        seconds: everything else.
    """

    cell: Cell
    row: dict | None
    failure: dict | None
    loading: float | None
    seconds: float


class Worker:
    """Measures cells of a plan; its evaluators are loaded, or trained where they are not yet, when it is made.

    Args:
        trained: the evaluators are, and this is one of several processes that load them at the same time.

    Raises:
        InputError: where the evaluators cannot be trained or loaded: without them there is nothing to measure.
    """

    def __init__(self, plan: Plan, trained: bool = False):
        self.plan, self.kinds, self.kept = plan, kinds(), EarlierReplies(plan.grid)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.evaluators = Evaluators(plan, self.device, trained)
        self.evaluators_memory = held(self.device)
        self.provenance = {
            "device": device_name(),
            "git": git_revision(),
            "versions": json.dumps(package_versions()),
        }
        self.provenance["evaluators"] = json.dumps(
            {name: one["hash"] for name, one in self.evaluators.summary().items()}
        )

    def measure(self, cells: list[Cell]) -> Iterator[CellOutcome]:
        """The cells of one unit (`experiments.runner.units`), model by model."""
        shared: dict[str, dict] = {}  # what models of the same options train once
        for name in dict.fromkeys(cell.model.name for cell in cells):
            yield from self._model([cell for cell in cells if cell.model.name == name], shared)

    def _model(self, cells: list[Cell], shared: dict[str, dict]) -> Iterator[CellOutcome]:
        """Score again what is kept of a model, then load it where cells are left, and measure those."""
        left = []
        for cell in cells:
            started, row, failure = time.monotonic(), None, None
            try:
                row = self._kept_row(cell)
            except Exception as error:
                failure = _failure(cell, error)
                release_memory()
            if row or failure:
                yield CellOutcome(cell, row, failure, None, time.monotonic() - started)
            else:
                left.append(cell)
        if left:
            yield from self._loaded(left, shared)

    def _loaded(self, cells: list[Cell], shared: dict[str, dict]) -> Iterator[CellOutcome]:
        """Load a model and measure its cells."""
        model, started = cells[0].model, time.monotonic()
        system, trouble = None, None
        try:
            common = shared.setdefault(fingerprint(model.options, []), {})
            system = self.kinds[model.kind].load(self.plan.grid, self.plan.schema, self.device, model, common)
        except Exception as error:  # whatever stops one model does not stop the others
            trouble = error
        release_memory()  # what its training held
        loading: float | None = time.monotonic() - started
        written: dict[str, Scored] = {}  # replies that several splits of the combinations divide
        for cell in cells:
            started, row, failure = time.monotonic(), None, None
            try:
                if trouble is not None:
                    raise trouble
                row = self._row(cell, system, written)
            except Exception as error:
                failure = _failure(cell, error)
                release_memory()
            yield CellOutcome(cell, row, failure, loading, time.monotonic() - started)
            loading = None
        del system
        release_memory()
        if not self.plan.grid.keep_models:
            shutil.rmtree(self.plan.grid.folder / "models" / model.name, ignore_errors=True)

    def _scored(self, cell: Cell, system: TrainedSystem, known: dict[str, Scored]) -> Scored:
        """A cell's replies with their scores: those of an earlier cell that divides the same replies otherwise."""
        same = json.dumps(cell.options, sort_keys=True, default=str)
        if same in known:
            return known[same]
        written = system.write(self.plan.requests, cell.options)
        rows = generations_of(written.requests, written.replies, cell.model.seed)
        seconds = dict(written.seconds)
        timed(seconds, "scoring", self.evaluators.score, rows)
        if cell.held_out:
            known[same] = written, rows, seconds
        return written, rows, seconds

    def _kept_row(self, cell: Cell) -> dict | None:
        """A row of replies that were written before, by the evaluators of now; None where there are none.

        What the writing took and what its model was are the earlier row's. People's replies are to requests of their own.
        """
        if cell.model.kind == "human" or (row := self.kept.row_of(cell)) is None:
            return None
        if (rows := self.kept.generations(cell, row, self.plan.requests)) is None:
            return None
        seconds: dict[str, float] = {}
        timed(seconds, "scoring", self.evaluators.score, rows)
        scores = {*columns_of(self.plan.schema), *UNSEEN}
        numbers, _ = self._numbers(cell, rows)
        return (
            {name: value for name, value in row.items() if name not in scores}
            | numbers
            | {
                "seconds_scoring": seconds["scoring"],
                "date": _now(),
                "evaluators": self.provenance["evaluators"],
            }
        )

    def _numbers(self, cell: Cell, rows: list[dict]) -> tuple[dict, list[str]]:
        """What scored replies say, beside what names the cell, and reasons for doubt; the replies are kept."""
        plan, model = self.plan, cell.model
        if plan.grid.keep_replies:
            write_jsonl(plan.grid.folder / "generations" / f"{cell.key}.jsonl", rows)
        replies = [row["response"] for row in rows]
        likeness = self.evaluators.mauve(replies) if model.kind != "human" else None
        numbers = (
            {"key": cell.key, "model": model.label, "kind": model.kind, "seed": model.seed, "contexts": plan.grid.contexts, "written": cell.written}
            | cell.swept
            | measured(rows, plan.schema, len({request.context for request in plan.requests}))
            | {"mauve": likeness.value if likeness else None}
            | (unseen(rows, cell.held_out) if cell.held_out else {})
        )  # fmt: skip
        return numbers, likeness.warnings() if likeness else []

    def _row(self, cell: Cell, system: TrainedSystem, known: dict[str, Scored]) -> dict:
        """A cell's row."""
        written, rows, seconds = self._scored(cell, system, known)
        numbers, doubts = self._numbers(cell, rows)
        texts = {
            "training": json.dumps(cell.model.options),
            "generation": json.dumps(cell.options),
            "weights_hash": system.hash,
        }
        return (
            numbers
            | {f"seconds_{name}": value for name, value in (seconds | {"training": system.seconds}).items()}
            | self._cost(written, system)
            | {f"dev_{sign}": value for sign, value in system.signs.items()}
            | written.sampler
            | system.notes
            | texts
            | {"warnings": "; ".join(written.warnings + doubts), "date": _now()}
            | self.provenance
        )

    def _cost(self, written: Written, system: TrainedSystem) -> dict[str, float | None]:
        """`experiments.measures.COST` of a row; memory is what is held beyond the evaluators, which every model stands beside."""
        rate = (
            seconds_per_1000(sum(written.seconds.values()), len(written.replies)) if written.seconds else None
        )
        most = {"generation": written.memory, "training": system.memory}
        return {"seconds_per_1000": rate} | {
            f"memory_{name}": None if value is None else round(max(0.0, value - self.evaluators_memory), 1)
            for name, value in most.items()
        }


def _failure(cell: Cell, error: Exception) -> dict:
    """Why a cell has no row."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    model = cell.model
    row = {
        "key": cell.key,
        "model": model.label,
        "kind": model.kind,
        "seed": model.seed,
        "options": json.dumps(cell.swept),
    }
    return row | {"reason": reason, "at": f"{Path(frame.filename).name}:{frame.lineno}", "date": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
