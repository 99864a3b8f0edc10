"""The replies of a run, compact, for the page's browser."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from common.errors import InputError
from common.jsonl import is_file, parse_line, read_lines
from common.shapes import Fields, Items, Maybe, Values, misfit

REPLY = Fields(
    {
        "context": Items(str),
        "target": Values(str),
        "reference": str,
        "predicted": Maybe(Values(str)),
        "probabilities": Maybe(Values(Values(object))),
    }
)
EMBEDDED = 10_000  # rows; some 6 MB of page, and what a phone still filters at once


@dataclass(frozen=True)
class ReplyBrowser:
    """What the page's script reads.

    Attributes:
        attributes: ``[[name, [aspects]], ...]``.
        contexts: the different contexts, lists of turns.
        rows: see `compact`.
        total: rows in the file; only the first `EMBEDDED` are in `rows`.
    """

    attributes: list[list]
    contexts: list[list[str]]
    rows: list[dict]
    total: int


def read_replies(path: Path, aspects: dict[str, list[str]], limit: int = EMBEDDED) -> ReplyBrowser | None:
    """The first rows of a generations file; None where there is no such file.

    Args:
        aspects: attribute -> aspect names; those that only the file knows are added behind them.

    Raises:
        InputError: for a line that is no generation, naming file and line.
    """
    if not is_file(path):
        return None
    lines = read_lines(path)
    rows = [_checked(parse_line(line, where, strict=False), where) for where, line in islice(lines, limit)]
    total = len(rows) + sum(1 for _ in lines)
    names = all_aspects(rows, aspects)
    contexts: dict[tuple[str, ...], int] = {}
    numbers = [contexts.setdefault(tuple(row["context"]), len(contexts)) for row in rows]
    return ReplyBrowser(
        [[name, found] for name, found in names.items()],
        [list(context) for context in contexts],
        [compact(row, number, names) for row, number in zip(rows, numbers)],
        total,
    )


def _checked(row: dict, where: str) -> dict:
    for key, kind in (("context", list), ("target", dict), ("response", str)):
        if not isinstance(row.get(key), kind):
            raise InputError(f"{where}: expected {key!r} of type {kind.__name__}, found {row.get(key)!r:.80}")
    if wrong := misfit(row, REPLY):
        raise InputError(f"{where}: {wrong}")
    return row


def all_aspects(rows: list[dict], aspects: dict[str, list[str]]) -> dict[str, list[str]]:
    """Attribute -> aspects, those of the argument first, then what targets and classifiers name besides."""
    found = {name: list(known) for name, known in aspects.items()}
    for row in rows:
        named = [*row["target"].items(), *(row.get("predicted") or {}).items()]
        named += [
            (name, aspect) for name, chances in (row.get("probabilities") or {}).items() for aspect in chances
        ]
        for name, aspect in named:
            if aspect not in found.setdefault(name, []):
                found[name].append(aspect)
    return found


def compact(row: dict, context: int, aspects: dict[str, list[str]]) -> dict:
    """One row for the script.

    Returns:
        ``c`` number of its context; ``t`` per attribute the index of the aspect asked for, or -1; ``r`` reply;
        ``f`` reference or null; ``h`` per attribute null or [index of the aspect predicted, its probability, that of the
        aspect asked for]; ``n`` coherence or null.
    """
    target = [
        known.index(row["target"][name]) if name in row["target"] else -1 for name, known in aspects.items()
    ]
    predicted = [_predicted(row, name, known) for name, known in aspects.items()]
    return {
        "c": context,
        "t": target,
        "r": row["response"],
        "f": row.get("reference") or None,
        "h": predicted,
        "n": _number(row.get("nli")),
    }


def _predicted(row: dict, name: str, known: list[str]) -> list | None:
    aspect = (row.get("predicted") or {}).get(name)
    if aspect is None:
        return None
    chances = (row.get("probabilities") or {}).get(name) or {}
    return [known.index(aspect), _number(chances.get(aspect)), _number(chances.get(row["target"].get(name)))]


def _number(value: float | None) -> float | None:
    """Rounded; None for what is no number, or none that a float can hold."""
    return round(value, 4) if isinstance(value, (int, float)) and abs(value) < 1e300 else None
