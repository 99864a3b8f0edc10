"""Work off a plan, in this process or in several: a row is on disk the moment its cell is measured."""

import shutil
import time
from collections.abc import Iterator

from common.jsonl import write_json
from common.provenance import command_line
from experiments.cvae import VITAL_SIGNS
from experiments.jobs import Jobs, JobSettings
from experiments.measures import COST, UNSEEN, columns_of
from experiments.plan import Cell, Plan, kinds
from experiments.pool import Pool
from experiments.rows import RowsFile
from experiments.worker import CellOutcome, Worker

CELL = ["key", "model", "kind", "seed", "contexts"]
SECONDS = ["training", "latents", "decoding", "choosing", "scoring"]
SAMPLER = ["nfe", "energy_start", "energy", "settled", "halving_latent_change", "halving_energy_change"]
RECORD = [
    "written",
    "training",
    "generation",
    "weights_hash",
    "evaluators",
    "warnings",
    "date",
    "device",
    "git",
    "versions",
]
FAILURE = ["key", "model", "kind", "seed", "options", "reason", "at", "date"]


def results_of(plan: Plan) -> RowsFile:
    """The experiment's ``results.csv``, with the columns that the plan needs."""
    seconds, signs = [f"seconds_{name}" for name in SECONDS], [f"dev_{sign}" for sign in VITAL_SIGNS]
    split = UNSEEN if any(cell.held_out for cell in plan.cells) else ()
    used = {cell.model.kind for cell in plan.cells}
    kind_columns = [name for kind in sorted(used) for name in kinds()[kind].columns]
    columns = [
        *CELL,
        *plan.swept,
        *columns_of(plan.schema),
        *split,
        *seconds,
        *COST,
        *signs,
        *SAMPLER,
        *kind_columns,
        *RECORD,
    ]
    return RowsFile(plan.grid.folder / "results.csv", columns)


def units(cells: list[Cell]) -> list[list[Cell]]:
    """The cells in parts that any process may take: those of one model, or of all models of a seed whose training shares something."""
    sharing = {name for name, kind in kinds().items() if kind.shares}
    parts: dict[tuple, list[Cell]] = {}
    for cell in cells:
        parts.setdefault((cell.model.seed, "" if cell.model.kind in sharing else cell.model.name), []).append(
            cell
        )
    return list(parts.values())


class Runner:
    """Measures the missing cells of a plan, and is the only one that writes rows.

    Args:
        done: where rows go, and what is there already.
        workers: processes; each loads its own evaluators and models, and has a log in the experiment's folder.
        jobs: a scheduler's jobs do the work instead; None: this machine's processes do.
    """

    def __init__(self, plan: Plan, done: RowsFile, workers: int = 1, jobs: JobSettings | None = None):
        self.plan, self.results, self.workers, self.jobs = plan, done, workers, jobs
        measured_before = {row["key"] for row in done.rows}
        self.missing = [cell for cell in plan.cells if cell.key not in measured_before]
        self.models = {cell.model.name for cell in self.missing}  # of which nothing has come out yet
        self.failed, self.finished = 0, 0
        self.loading: list[float] = []  # seconds of every model loaded or trained so far
        self.measuring = 0.0

    def run(self) -> int:
        """Measure every missing cell; returns the number of those that failed, which ``failures.csv`` names with the reason.

        Raises:
            InputError: where the evaluators cannot be trained or loaded, or a worker process was ended from outside.
        """
        (self.plan.grid.folder / "failures.csv").unlink(missing_ok=True)
        if not self.missing:
            return 0
        self.began = time.monotonic()
        for outcome in self._outcomes(units(self.missing)):
            self._note(outcome)
        if not self.plan.grid.keep_models:
            self._clear()
        return self.failed

    def _clear(self) -> None:
        """Delete what models had in common."""
        known, models = kinds(), self.plan.grid.folder / "models"
        for cell in self.missing:
            if folder := known[cell.model.kind].common_folder(cell.model):
                shutil.rmtree(models / folder, ignore_errors=True)

    def _outcomes(self, parts: list[list[Cell]]) -> Iterator[CellOutcome]:
        if self.jobs is None and self.workers == 1:
            worker = Worker(self.plan)
            self._begin(worker.evaluators.summary(), worker.evaluators.warnings)
            for part in parts:
                yield from worker.measure(part)
            return
        with Jobs(self.plan, self.jobs) if self.jobs else Pool(self.plan, self.workers) as pool:
            self._begin(*pool.evaluators())
            yield from pool.outcomes(parts)

    def _begin(self, evaluators: dict[str, dict], warnings: list[str]) -> None:
        write_json(
            self.plan.grid.folder / "experiment.json",
            {"command": command_line(), "evaluators": evaluators, "warnings": warnings},
        )
        self.began = time.monotonic()

    def _note(self, outcome: CellOutcome) -> None:
        """Put an outcome on disk and into a line, with an estimate of the time left from the means of the models and cells so far."""
        cell, row = outcome.cell, outcome.row
        if row is not None:
            self.results.append(row)
            joint, coherence = (
                f"{row[key]:.3f}" if row[key] is not None else "-" for key in ("accuracy_joint", "nli")
            )
            what = f"accuracy {row['accuracy_mean']:.3f}, joint {joint}, coherence {coherence}"
        else:
            self.failed += 1
            RowsFile(self.plan.grid.folder / "failures.csv", FAILURE).append(outcome.failure)
            what = f"failed, {outcome.failure['reason']:.200}"
        self.finished += 1
        self.measuring += outcome.seconds
        if outcome.loading is not None:
            self.loading.append(outcome.loading)
        self.models.discard(cell.model.name)
        left = self.measuring / self.finished * (len(self.missing) - self.finished)
        if self.loading:  # none where kept replies were scored again
            left += sum(self.loading) / len(self.loading) * len(self.models)
        spent = time.monotonic() - self.began
        print(
            f"[{self.finished}/{len(self.missing)}] {cell.label}: {what}; {spent:.0f} s, about {left / self.workers:.0f} s left",
            flush=True,
        )
