"""A few replies of many, to look at beside the numbers."""

from collections.abc import Hashable, Sequence
from pathlib import Path

from common.jsonl import parse_line, read_lines
from common.schema import target_name
from scoring.table import terminal_width


def spread(targets: Sequence[Hashable], count: int) -> list[int]:
    """Numbers of at most `count` rows, in their order, evenly over the targets and over the rows of each.

    Every nth row of a file that has all combinations of every context could be of one combination alone.
    """
    rows: dict[Hashable, list[int]] = {}
    for number, target in enumerate(targets):
        rows.setdefault(target, []).append(number)
    groups, chosen = list(rows.values()), set[int]()
    for sample in range(count if groups else 0):
        group = _at(groups, sample, count)
        if free := [number for number in group if number not in chosen]:
            chosen.add(_at(free, sample, count))
    return sorted(chosen)


def _at(items: list, sample: int, count: int):
    """Of so many samples the first is the first item, the last the last one."""
    last = max(count - 1, 1)
    return items[(sample * (len(items) - 1) + last // 2) // last]


def samples(path: Path, width: int | None = None, count: int = 4) -> str:
    """A few replies of a generations file: what was asked for, the context's last turn, shortened, and the reply."""
    width = terminal_width() if width is None else width
    targets = [
        target_name(parse_line(line, where, strict=False)["target"]) for where, line in read_lines(path)
    ]
    chosen = spread(targets, count)
    text = [f"{len(chosen)} of {len(targets)} replies, all in {path}:"]
    for number, (where, line) in enumerate(read_lines(path)):
        if number in chosen:
            row = parse_line(line, where, strict=False)
            text.append(f"  {targets[number].replace('+', ', ')}")
            text.append("    > " + shortened(row["context"][-1], width - 6))
            text.append("    " + shortened(row["response"], 3 * width))
    return "\n".join(text)


def shortened(text: str, width: int) -> str:
    """A text in one line of printable characters, cut to a width."""
    line = "".join(letter for letter in " ".join(text.split()) if letter.isprintable())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"
