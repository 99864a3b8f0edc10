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
from experiments.measures import measured, seconds_per_1000, unseen
from experiments.plan import Cell, Plan, kinds
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

    Raises:
        InputError: where the evaluators cannot be trained or loaded: without them there is nothing to measure.
    """

    def __init__(self, plan: Plan):
        self.plan, self.kinds = plan, kinds()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.evaluators = Evaluators(plan, self.device)
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

    def _row(self, cell: Cell, system: TrainedSystem, known: dict[str, Scored]) -> dict:
        """A cell's row."""
        plan, model = self.plan, cell.model
        written, rows, seconds = self._scored(cell, system, known)
        if plan.grid.keep_replies:
            write_jsonl(plan.grid.folder / "generations" / f"{cell.key}.jsonl", rows)
        numbers = measured(rows, plan.schema, len({request.context for request in plan.requests}))
        likeness = self.evaluators.mauve(written.replies) if model.kind != "human" else None
        doubts = written.warnings + (likeness.warnings() if likeness else [])
        texts = {
            "training": json.dumps(model.options),
            "generation": json.dumps(cell.options),
            "weights_hash": system.hash,
        }
        return (
            {
                "key": cell.key,
                "model": model.label,
                "kind": model.kind,
                "seed": model.seed,
                "contexts": plan.grid.contexts,
            }
            | cell.swept
            | numbers
            | {"mauve": likeness.value if likeness else None}
            | (unseen(rows, cell.held_out) if cell.held_out else {})
            | {f"seconds_{name}": value for name, value in (seconds | {"training": system.seconds}).items()}
            | self._cost(written, system)
            | {f"dev_{sign}": value for sign, value in system.signs.items()}
            | written.sampler
            | system.notes
            | texts
            | {"warnings": "; ".join(doubts), "date": _now()}
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
