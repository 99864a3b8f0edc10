"""The table on disk: one line per cell, there to stay the moment it is written."""

import csv
import io
import os
from pathlib import Path

from common.errors import InputError
from common.files import replacing
from common.jsonl import is_file


def read_rows(path: Path) -> tuple[str, str, list[str], list[dict[str, str]]]:
    """A file's text, the whole lines of it, its columns and its rows; all empty where there is none.

    Raises:
        InputError: for a file that is damaged in its middle.
    """
    try:
        text = path.read_bytes().decode("utf-8") if is_file(path) else ""
        whole = text[: text.rfind("\n") + 1]
        reader = csv.DictReader(io.StringIO(whole, newline=""))
        columns, rows = list(reader.fieldnames or []), []
        for row in reader:
            surplus = row.pop(None, [])
            if surplus or None in row.values():
                found = sum(value is not None for value in row.values()) + len(surplus)
                raise InputError(
                    f"{path}:{reader.line_num}: expected {len(columns)} values, found {found}; delete the line to measure its cell again"
                )
            rows.append(row)
        return text, whole, columns, rows
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: not a table of rows ({error}); move it away to measure all again"
        ) from None


class RowsFile:
    """A CSV file that grows by whole rows.

    Attributes:
        rows: all rows in order, values as the texts that the file holds; empty where there is no value.
    """

    def __init__(self, path: Path, columns: list[str]):
        """Open a file, or begin one.

        A line that a kill cut off is dropped. Columns that the file does not have yet are added to it, which writes it anew.

        Args:
            columns: those that rows to come will fill.
        """
        self.path = path
        text, whole, before, rows = read_rows(path)
        if before and columns and columns[0] not in before:
            raise InputError(
                f"{path}: expected a column {columns[0]!r}, found {', '.join(before)[:80]!r}; move it away to measure all again"
            )
        self.columns = list(dict.fromkeys([*before, *columns]))
        self.rows = [{name: row.get(name) or "" for name in self.columns} for row in rows]
        if whole != text or self.columns != before:
            self._rewrite()

    def append(self, row: dict) -> None:
        """Add a row; it is on disk when this returns. None becomes an empty cell."""
        texts = {name: "" if row.get(name) is None else str(row[name]) for name in self.columns}
        with open(self.path, "a", encoding="utf-8", newline="") as out:
            out.write(self._lines([texts]))
            out.flush()
            os.fsync(out.fileno())
        self.rows.append(texts)

    def _lines(self, rows: list[dict[str, str]], heading: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        if heading:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _rewrite(self) -> None:
        with replacing(self.path, newline="") as out:
            out.write(self._lines(self.rows, heading=True))
