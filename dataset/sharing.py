"""The rows of a training step shared out over several processes, so that together they read what one process would."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import BatchSampler, Dataset, Sampler

FILLER = "filler"  # key of a row that stands where a process has none


class SharedBatches(BatchSampler):
    """The batches of all processes together, of which each process takes its rows.

    Every process has the same sampler, cuts its order into batches of the same rows, and takes every N-th row of each: batches
    are ordered by length, so the work is even. The last batch may have fewer rows; where it has none for a process, the
    process reads the batch's first row as a filler, which counts nothing (`filled`). `accelerate` would instead begin the
    epoch's rows again, and some would count twice.

    Args:
        sampler: the order, the same in all processes.
        batch_size: rows of a batch, of all processes together.
        drop_last: leave a last batch out that has fewer.
        rank, count: which of how many processes this is.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, drop_last: bool, rank: int, count: int):
        super().__init__(sampler, batch_size, drop_last)
        self.rank, self.count = rank, count

    def __iter__(self) -> Iterator[list]:
        for rows in super().__iter__():
            yield rows[self.rank :: self.count] or [(rows[0],)]


class RowsAndFillers(Dataset):
    """A dataset's rows by number; by a number in a tuple a filler."""

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int]) -> dict:
        return self.rows[index] if isinstance(index, int) else self.rows[index[0]] | {FILLER: True}


class FilledCollator:
    """A collator whose batch, where it is a filler, counts nothing.

    Args:
        blank: what makes of a batch one that counts nothing.
    """

    def __init__(self, collate: Callable[[list[dict]], dict[str, Any]], blank: Callable[[dict], dict]):
        self.collate, self.blank = collate, blank

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        batch = self.collate(rows)
        return self.blank(batch) if FILLER in rows[0] else batch


def without_labels(batch: dict) -> dict:
    """A classifier's batch whose rows have no label."""
    return batch | {"labels": batch["labels"].new_full(batch["labels"].shape, -100)}


def without_rows(batch: dict) -> dict:
    """A CVAE's batch of which no row counts, see `model.cvae.MiracleModel.forward`."""
    return batch | {"rows": 0}
