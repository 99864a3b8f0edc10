"""Token ids of many rows as Arrow columns of 32-bit integers, encoded some rows at a time: a million rows in under a gigabyte."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")
AT_ONCE = 4096  # rows that are held as Python's lists


def compact_dataset(items: Iterable[T], encode: Callable[[list[T]], list[dict]]) -> "Dataset":
    """What `encode` makes of the items, as a `datasets.Dataset` in memory; as lists of Python's integers it takes ten times as much.

    Args:
        items: what the rows are made of.
        encode: from at most `AT_ONCE` items to a row of integers and lists of integers for each, all with the same keys.
    """
    import pyarrow as pa
    from datasets import Dataset  # only training needs it, and it takes a while to load
    from datasets.table import InMemoryTable

    def column(values: list) -> pa.Array:
        return pa.array(values, pa.list_(pa.int32()) if isinstance(values[0], list) else pa.int32())

    tables, left = [], iter(items)
    while some := list(islice(left, AT_ONCE)):
        rows = encode(some)
        tables.append(pa.table({key: column([row[key] for row in rows]) for key in rows[0]}))
    return Dataset(InMemoryTable(pa.concat_tables(tables)))
