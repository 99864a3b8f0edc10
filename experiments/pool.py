"""Several processes that measure one plan: on one GPU that a small model alone does not fill, on several GPUs, on many cores."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from common.errors import InputError
from experiments.evaluators import Training, trainings
from experiments.orphans import end_with_parent
from experiments.placing import PlacedProcess, PlacingContext, visible_gpus
from experiments.plan import Cell, Plan
from experiments.worker import CellOutcome, Worker

POLL = 0.5  # seconds between looks at what is there


class Pool:
    """Worker processes, begun when there is work for them.

    With several GPUs each process sees one of them, in turn. What the processes print goes to ``workers/<number>.log`` in
    the experiment's folder.

    Args:
        workers: number of processes.
    """

    def __init__(self, plan: Plan, workers: int):
        gpus = visible_gpus()
        self.plan, context = plan, PlacingContext(gpus)
        self.queue = context.SimpleQueue()
        self.logs = plan.grid.folder / "workers"
        self.logs.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // workers)
        self.pool = ProcessPoolExecutor(
            workers,
            context,
            _begin,
            (plan, self.queue, workers, len(gpus), threads, self.logs),
        )

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind, *what) -> None:
        if kind is not None:  # ended: nobody waits for the cells under way
            for process in multiprocessing.active_children():
                process.terminate()
        self.pool.shutdown(wait=kind is None, cancel_futures=True)

    def evaluators(self) -> tuple[dict[str, dict], list[str]]:
        """Train all evaluators at once, those that are not yet trained; returns their records and warnings."""
        for _ in self._results([self.pool.submit(_train, i) for i in range(len(_trainings(self.plan)))]):
            pass
        (evaluators,) = self._results([self.pool.submit(_describe)])
        return evaluators

    def outcomes(self, parts: list[list[Cell]]) -> Iterator[CellOutcome]:
        """What becomes of every cell, as it becomes known."""
        pending = {self.pool.submit(_measure, part) for part in parts}
        while pending:
            done, pending = wait(pending, timeout=POLL)
            while not self.queue.empty():
                yield self.queue.get()
            for _ in self._results(done):
                pass

    def _results(self, futures: list[Future]) -> Iterator[object]:
        for future in futures:
            try:
                yield future.result()
            except BrokenProcessPool:
                message = f"a worker process was ended from outside, for want of memory perhaps; see {self.logs}; with fewer --workers a second start goes on"
                raise InputError(message) from None


STATE: dict = {}  # of a worker process


def memory_share(number: int, workers: int, gpus: int) -> float:
    """The part of its GPU's memory that a worker may hold: what PyTorch keeps for later would be missing to the others."""
    beside = len(range(number % gpus, workers, gpus))
    return 1.0 if beside == 1 else 0.96 / beside  # each has a context of its own, outside of PyTorch's count


def _begin(plan: Plan, queue, workers: int, gpus: int, threads: int, logs: Path) -> None:
    end_with_parent()
    process = multiprocessing.current_process()
    assert isinstance(process, PlacedProcess)
    number = process.number
    if gpus and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(memory_share(number, workers, gpus))
    torch.set_num_threads(threads)
    log = os.open(logs / f"{number}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    STATE.update(plan=plan, queue=queue)


def _trainings(plan: Plan) -> list[Training]:
    return [part for one in trainings(plan.grid, plan.common) for part in one.parts(plan.schema.names)]


def _train(number: int) -> None:
    _trainings(STATE["plan"])[number].run()


def _worker() -> Worker:
    if "worker" not in STATE:
        STATE["worker"] = Worker(STATE["plan"], trained=True)
    return STATE["worker"]


def _describe() -> tuple[dict[str, dict], list[str]]:
    evaluators = _worker().evaluators
    return evaluators.summary(), evaluators.warnings


def _measure(cells: list[Cell]) -> None:
    for outcome in _worker().measure(cells):
        STATE["queue"].put(outcome)
