"""Work off a plan: judges once, every model once, a row the moment its cell is measured."""

import gc
import json
import shutil
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

import torch

from dataset.jsonl import write_json, write_jsonl
from experiments.cvae import VITAL_SIGNS
from experiments.judges import Judges
from experiments.measures import columns_of, measured
from experiments.plan import Cell, Plan, kinds
from experiments.rows import RowsFile
from experiments.system import Model, System
from gen_cvae import generations_of
from scripts.generation import timed
from scripts.runs import command_line, device_name, fingerprint, git_revision, package_versions

CELL = ["key", "model", "kind", "seed", "contexts"]
SECONDS = ["training", "latents", "decoding", "scoring"]
SAMPLER = ["nfe", "energy_start", "energy", "settled", "halving_latent_change", "halving_energy_change"]
RECORD = ["training", "generation", "weights_hash", "evaluators", "warnings", "date", "device", "git", "versions"]
FAILURE = ["key", "model", "kind", "seed", "options", "reason", "at", "date"]


def results_of(plan: Plan) -> RowsFile:
    """The experiment's ``results.csv``, with the columns that the plan needs."""
    seconds, signs = [f"seconds_{name}" for name in SECONDS], [f"dev_{sign}" for sign in VITAL_SIGNS]
    columns = [*CELL, *plan.swept, *columns_of(plan.schema), *seconds, *signs, *SAMPLER, *RECORD]
    return RowsFile(plan.grid.folder / "results.csv", columns)


class Runner:
    """One process that measures the missing cells of a plan.

    Args:
        done: where rows go, and what is there already.
    """

    def __init__(self, plan: Plan, done: RowsFile):
        self.plan, self.results, self.kinds = plan, done, kinds()
        measured_before = {row["key"] for row in done.rows}
        self.missing = [cell for cell in plan.cells if cell.key not in measured_before]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.failed = 0

    def run(self) -> int:
        """Measure every missing cell; returns the number of those that failed, which ``failures.csv`` names with the reason.

        Raises:
            InputError: where the judges cannot be trained or loaded: without them there is nothing to measure.
        """
        folder = self.plan.grid.folder
        (folder / "failures.csv").unlink(missing_ok=True)
        if not self.missing:
            return 0
        self.judges = Judges(self.plan, self.device)
        judges = {name: {key: record.get(key) for key in ("accuracy", "base", "hash")} for name, record in self.judges.records.items()}
        self.provenance = {"device": device_name(), "git": git_revision(), "versions": json.dumps(package_versions())}
        self.provenance["evaluators"] = json.dumps({name: judge["hash"] for name, judge in judges.items()})
        write_json(folder / "experiment.json", {"command": command_line(), "evaluators": judges, "warnings": self.judges.warnings})
        self.started, self.finished, self.models = time.monotonic(), 0, len({cell.model.name for cell in self.missing})
        self.loading: list[float] = []  # seconds of every model loaded or trained so far
        for seed in dict.fromkeys(cell.model.seed for cell in self.missing):
            shared: dict[str, dict] = {}  # what baselines of one seed and the same options train once
            cells = [cell for cell in self.missing if cell.model.seed == seed]
            for name in dict.fromkeys(cell.model.name for cell in cells):
                self._model([cell for cell in cells if cell.model.name == name], shared)
        return self.failed

    def _model(self, cells: list[Cell], shared: dict[str, dict]) -> None:
        """Load a model and measure its cells."""
        model, system = cells[0].model, None
        try:
            system = self._loaded(model, shared)
        except Exception as error:  # whatever stops one model does not stop the others
            for cell in cells:
                self._fail(cell, error)
        if system is not None:
            for cell in cells:
                self._cell(cell, system)
        del system
        self._tidy()
        if not self.plan.grid.keep_models:
            shutil.rmtree(self.plan.grid.folder / "models" / model.name, ignore_errors=True)

    def _loaded(self, model: Model, shared: dict[str, dict]) -> System:
        common, started = shared.setdefault(fingerprint(model.options, []), {}), time.monotonic()
        try:
            return self.kinds[model.kind].load(self.plan.grid, self.plan.schema, self.device, model, common)
        finally:
            self.loading.append(time.monotonic() - started)

    def _cell(self, cell: Cell, system: System) -> None:
        try:
            row = self._measured(cell, system)
        except Exception as error:
            self._fail(cell, error)
            self._tidy()
            return
        self.results.append(row)
        joint, coherence = (f"{row[key]:.3f}" if row[key] is not None else "-" for key in ("accuracy_joint", "nli"))
        self._say(cell, f"accuracy {row['accuracy_mean']:.3f}, joint {joint}, coherence {coherence}")

    def _measured(self, cell: Cell, system: System) -> dict:
        """A cell's row."""
        plan, model = self.plan, cell.model
        written = system.write(plan.requests, cell.options)
        rows = generations_of(written.requests, written.replies, model.seed)
        seconds = dict(written.seconds)
        timed(seconds, "scoring", self.judges.score, rows)
        if plan.grid.keep_replies:
            write_jsonl(plan.grid.folder / "generations" / f"{cell.key}.jsonl", rows)
        numbers = measured(rows, plan.schema, len({request.context for request in plan.requests}))
        texts = {"training": json.dumps(model.options), "generation": json.dumps(cell.options), "weights_hash": system.hash}
        return (
            {"key": cell.key, "model": model.label, "kind": model.kind, "seed": model.seed, "contexts": plan.grid.contexts}
            | cell.swept
            | numbers
            | {f"seconds_{name}": value for name, value in (seconds | {"training": system.seconds}).items()}
            | {f"dev_{sign}": value for sign, value in system.signs.items()}
            | written.sampler
            | texts
            | {"warnings": "; ".join(written.warnings), "date": _now()}
            | self.provenance
        )

    def _fail(self, cell: Cell, error: Exception) -> None:
        """Record why a cell has no row."""
        self.failed += 1
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        row = {"key": cell.key, "model": cell.model.label, "kind": cell.model.kind, "seed": cell.model.seed}
        row |= {"options": json.dumps(cell.swept), "reason": reason, "at": f"{Path(place.filename).name}:{place.lineno}", "date": _now()}
        RowsFile(self.plan.grid.folder / "failures.csv", FAILURE).append(row)
        self._say(cell, f"failed, {reason:.200}")

    def _say(self, cell: Cell, what: str) -> None:
        """A line per cell, with an estimate of the time left from the means of the models and cells so far."""
        self.finished += 1
        spent, loading = time.monotonic() - self.started, sum(self.loading)
        left = (spent - loading) / self.finished * (len(self.missing) - self.finished)
        left += loading / len(self.loading) * (self.models - len(self.loading))
        print(f"[{self.finished}/{len(self.missing)}] {cell.label}: {what}; {spent:.0f} s, about {left:.0f} s left", flush=True)

    def _tidy(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
