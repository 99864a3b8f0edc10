"""Worker processes of an experiment."""

import pytest

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
