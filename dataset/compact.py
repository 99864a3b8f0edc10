"""Token ids of many rows as Arrow columns of small integers, encoded some rows at a time."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

T = TypeVar("T")
AT_ONCE = 4096  # rows that are held as Python's lists
KINDS = ("uint8", "uint16", "int16", "int32")


def compact_dataset(items: Iterable[T], encode: Callable[[list[T]], list[dict]]) -> "Dataset":
    """What `encode` makes of the items, as a `datasets.Dataset` in memory; as lists of Python's integers it takes ten times as much.

    Args:
        items: what the rows are made of.
        encode: from at most `AT_ONCE` items to a row of integers and lists of integers for each, all with the same keys.
    """
    import pyarrow as pa
    from datasets import Dataset  # only training needs it, and it takes a while to load
    from datasets.table import InMemoryTable

    tables, left = [], iter(items)
    while some := list(islice(left, AT_ONCE)):
        rows = encode(some)
        tables.append(pa.table({key: _column([row[key] for row in rows]) for key in rows[0]}))
    schema = _shared_schema(tables)
    whole = pa.concat_tables([table.cast(schema) for table in tables])
    # with no name given `datasets` pickles all rows to name them by their content, in several times their memory
    return Dataset(InMemoryTable(whole), fingerprint=secrets.token_hex(8))


def released(items: list[T]) -> Iterator[T]:
    """The items in their order, each let go of once the next is asked for; the list is empty in the end."""
    items.reverse()
    while items:
        yield items.pop()


def _column(values: list) -> "pa.Array":
    """Integers, or lists of them, in the smallest type that holds all."""
    import pyarrow as pa
    from pyarrow.compute import min_max

    nested = isinstance(values[0], list)
    column = pa.array(values, pa.list_(pa.int32()) if nested else pa.int32())
    least, most = min_max(column.flatten() if nested else column).as_py().values()
    fits = (np.iinfo(kind).min <= (least or 0) and (most or 0) <= np.iinfo(kind).max for kind in KINDS)
    kind = pa.from_numpy_dtype(KINDS[list(fits).index(True)])
    return column.cast(pa.list_(kind) if nested else kind)


def _shared_schema(tables: list["pa.Table"]) -> "pa.Schema":
    """Types of the columns that hold what stands in any of the tables."""
    import pyarrow as pa

    fields = []
    for name in tables[0].column_names:
        kinds = [table.schema.field(name).type for table in tables]
        nested = pa.types.is_list(kinds[0])
        dtypes = {(kind.value_type if nested else kind).to_pandas_dtype() for kind in kinds}
        kind = pa.from_numpy_dtype(np.result_type(*dtypes))
        fields.append(pa.field(name, pa.list_(kind) if nested else kind))
    return pa.schema(fields)
