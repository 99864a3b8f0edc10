"""Jobs of a cluster's scheduler that measure a plan: one per model, all in one shared folder, through ``submitit``.

A job writes the outcome of a cell into a file of its own the moment it is measured; the process that submitted the jobs reads
these files and is the only one that writes ``results.csv``. It may be ended at any time: the next start takes what jobs have
left, waits for those still under way, and submits what is missing.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.jsonl import parse_line, read_json, write_json
from common.provenance import fingerprint
from experiments.evaluators import trainings
from experiments.plan import Cell, Plan
from experiments.worker import CellOutcome, Worker

EXECUTORS = {
    "slurm": "SlurmJob",
    "local": "LocalJob",
}  # with submitit's class of a job; local: processes of this machine
POLL = 2.0  # seconds between looks at what is there
UNDER_WAY = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "REQUEUED", "SUSPENDED")


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """How jobs are run.

    Attributes:
        executor: one of `EXECUTORS`.
        options: for every job, by the names of ``submitit.AutoExecutor``: ``gpus_per_node``, ``timeout_min``,
            ``slurm_partition``, ...
        most: jobs at once; 0: all.
    """

    executor: str
    options: dict[str, str | int | float]
    most: int = 0


def read_options(text: str | None) -> dict[str, str | int | float]:
    """``slurm_partition=gpu,gpus_per_node=1`` as a dict, numbers as numbers; raises `InputError` for anything else."""
    options: dict[str, str | int | float] = {}
    for part in text.split(",") if text else []:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not name.isidentifier() or not equals or not value:
            raise InputError(f"--job-options: expected name=value,..., found {part!r:.80}")
        options[name] = int(value) if value.isdigit() else value
    return options


def _submitit():
    try:
        import submitit
    except ModuleNotFoundError:
        raise InputError("--executor needs the package submitit: python -m pip install submitit") from None
    return submitit


class Jobs:
    """The same as `experiments.pool.Pool`, by jobs; what they print lies in ``jobs/`` in the experiment's folder.

    Raises:
        InputError: without ``submitit``, without its scheduler, and for options that it does not know.
    """

    def __init__(self, plan: Plan, settings: JobSettings):
        self.plan, self.settings = plan, settings
        self.folder = plan.grid.folder.resolve() / "jobs"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.running: list[_Unit] = []
        library = _submitit()
        try:
            self.executor = library.AutoExecutor(self.folder, cluster=settings.executor)
            self.executor.update_parameters(
                name=plan.grid.name, **({"timeout_min": 24 * 60} | settings.options)
            )
        except (NameError, RuntimeError, ValueError) as error:
            raise InputError(f"--executor {settings.executor}: {' '.join(str(error).split()):.300}") from None

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, kind, *what) -> None:
        """A cluster's jobs under way go on, and the next start takes what they leave; this machine's end."""
        if kind is not None and self.settings.executor == "local":
            for unit in self.running:
                unit.job.cancel(check=False)

    def evaluators(self) -> tuple[dict[str, dict], list[str]]:
        """Train all evaluators, a job each; returns their records and warnings."""
        plan = _on_shared_disk(self.plan)
        for job in [
            self.executor.submit(_train, plan, i) for i in range(len(trainings(plan.grid, plan.common)))
        ]:
            self._result(job)
        return self._result(self.executor.submit(_describe, plan))

    def _result(self, job: Any) -> Any:
        while not job.done():
            time.sleep(POLL)
        if (error := job.exception()) is not None:
            last = str(error).strip().splitlines()[-1:]
            raise InputError(f"job {job.job_id} ended: {' '.join(last):.300}; see {job.paths.stderr}")
        return job.result()

    def outcomes(self, parts: list[list[Cell]]) -> Iterator[CellOutcome]:
        """What becomes of every cell, as it becomes known."""
        waiting = [_Unit(self.folder, cells) for cells in parts]
        running = self.running
        while waiting or running:
            while waiting and (not self.settings.most or len(running) < self.settings.most):
                unit = waiting.pop(0)
                yield from unit.outcomes()  # of an earlier start
                if not unit.missing:
                    unit.forget()
                    continue
                unit.find_or_submit(self)
                running.append(unit)
            for unit in list(running):
                ended = unit.ended()  # before its file is read for the last time
                yield from unit.outcomes()
                if ended:
                    yield from unit.failures()
                    unit.forget()
                    running.remove(unit)
            if running:
                time.sleep(POLL if self.settings.executor != "local" else POLL / 10)


def _on_shared_disk(plan: Plan) -> Plan:
    """The plan with the experiment's folder by its whole path, as jobs may stand elsewhere."""
    return dataclasses.replace(
        plan, grid=dataclasses.replace(plan.grid, outs=str(Path(plan.grid.outs).resolve()))
    )


class _Unit:
    """The cells of one job, its file of outcomes and the number of the job."""

    def __init__(self, folder: Path, cells: list[Cell]):
        name = fingerprint({"cells": sorted(cell.key for cell in cells)}, [])
        self.outcomes_path, self.note = folder / f"{name}.outcomes.jsonl", folder / f"{name}.job.json"
        self.missing = {cell.key: cell for cell in cells}
        self.read = 0  # bytes of the file
        self.job: Any = None

    def find_or_submit(self, jobs: Jobs) -> None:
        """The job of an earlier start, where it is still under way, else a new one."""
        before, kind = read_json(self.note), jobs.settings.executor
        if before and before.get("executor") == kind:
            job = getattr(_submitit(), EXECUTORS[kind])(folder=jobs.folder, job_id=str(before["job"]))
            if job.state.split()[0] in UNDER_WAY:
                self.job = job
                return
        self.outcomes_path.unlink(missing_ok=True)
        self.read = 0
        plan = _on_shared_disk(jobs.plan)
        self.job = jobs.executor.submit(_measure, plan, list(self.missing.values()), self.outcomes_path)
        write_json(self.note, {"executor": kind, "job": str(self.job.job_id)})

    def outcomes(self) -> Iterator[CellOutcome]:
        """What the file has that is not known yet; of an earlier start's failures nothing, so that they are tried again."""
        if not self.outcomes_path.is_file():
            return
        with open(self.outcomes_path, "rb") as lines:
            lines.seek(self.read)
            for line in lines:
                if not line.endswith(b"\n"):
                    return  # being written
                self.read += len(line)
                record = parse_line(line, str(self.outcomes_path), strict=False)
                if record["key"] in self.missing and (self.job is not None or record["row"] is not None):
                    cell = self.missing.pop(record.pop("key"))
                    yield CellOutcome(cell, **record)

    def ended(self) -> bool:
        """Whether nothing more will come."""
        return bool(self.job.done())

    def failures(self) -> Iterator[CellOutcome]:
        """The cells of which an ended job said nothing: it was ended from outside, or could not begin."""
        if not self.missing:
            return
        error = self.job.exception()
        reason = (
            str(error).strip().splitlines()[-1] if error and str(error).strip() else "the job ended early"
        )
        for cell in self.missing.values():
            failure = {
                "key": cell.key,
                "model": cell.model.label,
                "kind": cell.model.kind,
                "seed": cell.model.seed,
                "reason": f"job {self.job.job_id}: {reason}",
                "at": str(self.job.paths.stderr),
            }
            yield CellOutcome(cell, None, failure, None, 0.0)
        self.missing = {}

    def forget(self) -> None:
        """The outcomes are on disk elsewhere."""
        self.outcomes_path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _train(plan: Plan, number: int) -> None:
    trainings(plan.grid, plan.common)[number].run()


def _describe(plan: Plan) -> tuple[dict[str, dict], list[str]]:
    evaluators = Worker(plan, trained=True).evaluators
    return evaluators.summary(), evaluators.warnings


def _measure(plan: Plan, cells: list[Cell], outcomes_path: Path) -> None:
    for outcome in Worker(plan, trained=True).measure(cells):
        line = {
            "key": outcome.cell.key,
            "row": outcome.row,
            "failure": outcome.failure,
            "loading": outcome.loading,
            "seconds": outcome.seconds,
        }
        with open(outcomes_path, "ab") as out:
            out.write(json.dumps(line, default=lambda value: value.item()).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
