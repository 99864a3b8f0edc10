"""Rows as small integers: the same values in the smallest types, whatever the parts that they were encoded in."""

import pytest

from dataset import compact
from dataset.compact import compact_dataset, released


def types_of(dataset) -> dict[str, str]:
    return {name: str(kind) for name, kind in zip(dataset.data.column_names, dataset.data.schema.types)}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], "uint8"),
        ([0, 256], "uint16"),
        ([0, 49_151], "uint16"),
        ([-100, 4_095], "int16"),
        ([-100, 49_151], "int32"),
        ([0, 150_000], "int32"),
    ],
)
def test_the_smallest_type_that_holds_all(values, kind):
    found = compact_dataset([values], lambda some: [{"ids": ids, "length": max(ids)} for ids in some])
    assert found[0] == {"ids": values, "length": max(values)}
    assert types_of(found)["ids"] == f"list<item: {kind}>"


def test_parts_of_different_types_are_joined(monkeypatch):
    monkeypatch.setattr(compact, "AT_ONCE", 2)
    rows = [
        {"ids": ids, "n": n}
        for ids, n in (([1], 1), ([2, 3], 2), ([-100, 300], 300), ([], 0), ([40_000], 70_000))
    ]
    found = compact_dataset(rows, lambda some: some)
    assert list(found) == rows
    assert types_of(found) == {"ids": "list<item: int32>", "n": "int32"}


def test_empty_lists_alone():
    rows = [{"ids": []}, {"ids": []}]
    assert list(compact_dataset(rows, lambda some: some)) == rows


def test_items_are_let_go_of():
    items = [*range(5)]
    assert [(item, len(items)) for item in released(items)] == [(0, 4), (1, 3), (2, 2), (3, 1), (4, 0)]


def test_rows_are_not_pickled_to_be_named(monkeypatch):
    """Naming them by their content took eight times their memory."""
    from datasets.fingerprint import Hasher

    monkeypatch.setattr(Hasher, "hash", lambda *args: pytest.fail("rows were hashed"))
    first, second = (compact_dataset([{"n": 1}], lambda some: some) for _ in range(2))
    assert first._fingerprint != second._fingerprint
