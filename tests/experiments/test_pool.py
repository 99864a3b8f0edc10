"""Worker processes of an experiment."""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from experiments.pool import VISIBLE, PlacingContext, memory_share, visible_gpus

SEEN_AT_FIRST = os.environ.get(VISIBLE)  # by the first line that a process runs


@pytest.mark.parametrize("workers, gpus", [(1, 1), (2, 2), (4, 1), (7, 2), (3, 4)])
def test_workers_of_a_gpu_share_its_memory(workers, gpus):
    shares: dict[int, list[float]] = {}
    for number in range(workers):
        shares.setdefault(number % gpus, []).append(memory_share(number, workers, gpus))
    for beside in shares.values():
        assert sum(beside) <= 1
        assert min(beside) == max(beside) >= 0.9 / len(beside)
        assert len(beside) > 1 or beside == [1.0]


def seen() -> str | None:
    return SEEN_AT_FIRST


@pytest.mark.parametrize("before", [None, "3,7"])
def test_a_worker_sees_its_gpu_from_the_first_line_on_and_the_parent_sees_what_it_saw(monkeypatch, before):
    """A library that looks at the GPUs while it is imported must find one: bitsandbytes does."""
    monkeypatch.delenv(VISIBLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VISIBLE, before)
    gpus = ["0", "1"] if before is None else visible_gpus()
    found = []
    for _ in range(2):
        context = PlacingContext(gpus)
        context.begun = len(found)
        with ProcessPoolExecutor(1, context) as pool:
            found.append(pool.submit(seen).result())
    assert found == gpus == (["0", "1"] if before is None else ["3", "7"])
    assert os.environ.get(VISIBLE) == before


def test_without_gpus_nothing_is_said(monkeypatch):
    monkeypatch.delenv(VISIBLE, raising=False)
    with ProcessPoolExecutor(1, PlacingContext([])) as pool:
        assert pool.submit(seen).result() is None
