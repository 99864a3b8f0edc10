"""Generations: replies to be scored, from this generator or from anywhere else, read row by row."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from common.errors import InputError
from common.jsonl import parse_line, read_jsonl, read_lines
from common.schema import Schema
from common.shapes import Fields, Maybe, Number, Values, misfit
from scoring.stale import STAMP

SCORES = ("predicted", "probabilities", "nli", "nats", "tokens")
SCORES_OF_A_ROW = Fields(
    {
        "predicted": Maybe(Values(str)),
        "probabilities": Maybe(Values(Values(Number()))),
        **dict.fromkeys(("nli", "nats", "tokens"), Number()),
    }
)


def read_generations(path: Path, schema: Schema) -> Iterator[dict]:
    """Yield the rows of a generations file, checked; keys that are absent come as None.

    Raises:
        InputError: naming file and line.
    """
    for number, (where, row) in enumerate(read_jsonl(path)):
        yield checked(row, schema, where, number)


def checked(row: dict, schema: Schema, where: str, number: int) -> dict:
    """A row with all keys of the contract; raises `InputError` with `where` in front."""
    context, target, response = row.get("context"), row.get("target"), row.get("response")
    if not isinstance(context, list) or not context or not all(isinstance(turn, str) for turn in context):
        raise InputError(f"{where}: 'context' must be a list of turns, found {context!r:.80}")
    if not isinstance(response, str):
        raise InputError(f"{where}: 'response' must be a string, found {response!r:.80}")
    if not isinstance(target, dict):
        raise InputError(
            f"{where}: 'target' must be an object from attributes to aspects, found {target!r:.80}"
        )
    for name, aspect in target.items():
        try:
            schema.attribute(name).index(aspect)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    if not isinstance(row.get("reference"), (str, type(None))):
        raise InputError(f"{where}: 'reference' must be a string or null, found {row['reference']!r:.80}")
    ordered = {name: target[name] for name in schema.names if name in target}
    scores = {key: row.get(key) for key in SCORES}
    _check_scores(scores, ordered, schema, where)
    fixed = {
        "id": str(row.get("id", number)),
        "context": context,
        "target": ordered,
        "response": response,
        "reference": row.get("reference"),
    }
    stamp = {key: row[key] for key in STAMP if isinstance(row.get(key), str)}
    return fixed | scores | {"seed": row.get("seed")} | stamp


def _check_scores(scores: dict, target: dict[str, str], schema: Schema, where: str) -> None:
    if wrong := misfit(scores, SCORES_OF_A_ROW):
        raise InputError(f"{where}: {wrong}")
    if not scores["predicted"]:
        return
    chances = scores["probabilities"] or {}
    missing = [name for name in target if name not in scores["predicted"] or name not in chances]
    if missing:
        raise InputError(f"{where}: scored, but without 'predicted' and 'probabilities' of {missing}")
    for name, aspect in target.items():
        if chances[name].get(aspect) is None:
            raise InputError(
                f"{where}: 'probabilities' of {name} have no {aspect!r}; found {chances[name]!r:.80}"
            )
        try:
            schema.attribute(name).index(scores["predicted"][name])
        except InputError as error:
            raise InputError(f"{where}: 'predicted': {error}") from None


def line_chunks(path: Path, size: int) -> Iterator[list[tuple[str, bytes]]]:
    """The lines of a generations file in lists of at most `size`, each with its place; not read yet, so that a process need
    not read those of others. Raises `InputError` for a file that is missing or has no rows."""
    lines, empty = read_lines(path), True
    while chunk := list(islice(lines, size)):
        empty = False
        yield chunk
    if empty:
        raise InputError(f"{path}: the file has no rows")


def rows_of(lines: list[tuple[str, bytes]], schema: Schema, before: int) -> list[dict]:
    """Lines as checked rows, as `read_generations` gives them; `before`: rows of the file in front of them."""
    return [
        checked(parse_line(line, where), schema, where, number)
        for number, (where, line) in enumerate(lines, before)
    ]


def in_chunks(rows: Iterator[dict], size: int) -> Iterator[list[dict]]:
    """Lists of at most `size` rows."""
    while chunk := list(islice(rows, size)):
        yield chunk
