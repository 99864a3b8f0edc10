"""Worker processes of an experiment."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnProcess

import pytest
from first_line import seen_first

from experiments.placing import VISIBLE, PlacingContext, visible_gpus
from experiments.pool import memory_share


@pytest.mark.parametrize("workers, gpus", [(1, 1), (2, 2), (4, 1), (7, 2), (3, 4)])
def test_workers_of_a_gpu_share_its_memory(workers, gpus):
    shares: dict[int, list[float]] = {}
    for number in range(workers):
        shares.setdefault(number % gpus, []).append(memory_share(number, workers, gpus))
    for beside in shares.values():
        assert sum(beside) <= 1
        assert min(beside) == max(beside) >= 0.9 / len(beside)
        assert len(beside) > 1 or beside == [1.0]


def test_a_worker_sees_its_gpu_from_the_first_line_on(monkeypatch):
    """A library that looks at the GPUs while it is imported must find one: bitsandbytes does."""
    monkeypatch.setenv(VISIBLE, "3,7")
    context = PlacingContext(visible_gpus())
    context.begun = 1
    with ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(seen_first).result() == "7"
    assert os.environ[VISIBLE] == "3,7"


@pytest.mark.parametrize("before", [None, "3,7"])
@pytest.mark.parametrize("gpus", [[], ["0", "1"]])
def test_workers_take_the_gpus_in_turn_and_the_parent_sees_what_it_saw(monkeypatch, before, gpus):
    monkeypatch.delenv(VISIBLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VISIBLE, before)
    found, context = [], PlacingContext(gpus)
    monkeypatch.setattr(SpawnProcess, "start", lambda process: found.append(os.environ.get(VISIBLE)))
    for number in range(3):
        process = context.Process()
        assert process.number == number
        process.start()
    assert found == (["0", "1", "0"] if gpus else [before] * 3)
    assert os.environ.get(VISIBLE) == before
