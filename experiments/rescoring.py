"""Replies that an experiment has written before, for evaluators that are others now: scored again, not written again."""

from pathlib import Path

from common.errors import InputError
from common.jsonl import is_file, read_jsonl
from experiments.grid import Grid
from experiments.plan import Cell
from experiments.rows import read_rows
from generation.kept import generations_of
from generation.requests import Request


class EarlierReplies:
    """Rows of an experiment's table whose replies lie in ``generations/``, by what decided those replies.

    That is the model with its training, seed and data, the generation options and the contexts (`experiments.plan.Cell.written`);
    evaluators, the perplexity model and MAUVE have no part in it. Rows from before this was recorded are measured anew.
    """

    def __init__(self, grid: Grid):
        self.folder = grid.folder / "generations"
        _, _, _, rows = read_rows(grid.folder / "results.csv")
        self.rows = {row["written"]: row for row in rows if row.get("written")}

    def row_of(self, cell: Cell) -> dict[str, str] | None:
        """The table's row of a cell's replies, by whatever evaluators; None where there is none, or not all replies are kept."""
        row = self.rows.get(cell.written)
        return row if row is not None and is_file(self._path(row)) else None

    def generations(self, cell: Cell, row: dict[str, str], requests: list[Request]) -> list[dict] | None:
        """The replies that were kept, not scored; None where they are damaged, or not those of the requests."""
        try:
            kept = [one for _, one in read_jsonl(self._path(row))]
            asked = [(list(request.context), request.target) for request in requests]
            if [(one["context"], one["target"]) for one in kept] != asked:
                return None
            return generations_of(requests, [one["response"] for one in kept], cell.model.seed)
        except (InputError, KeyError, TypeError):
            return None

    def _path(self, row: dict[str, str]) -> Path:
        return self.folder / f"{row['key']}.jsonl"
