"""Control and coherence by turn of conversations in which the target is held, or one of its aspects changes half-way.

Rows are scored generations with these keys besides: ``conversation`` (a number), ``condition`` (``held`` or ``changed``), ``turn``
(from 1), ``opening`` (the user's first turn, which several conversations share), ``changed`` (the attribute whose aspect changes;
None where none does), ``read_all`` (whether the decoder read the whole conversation) and ``repeated`` (whether the same reply was
given earlier in this conversation).
"""

from collections.abc import Callable, Sequence

import numpy as np

from scoring.bootstrap import Bootstrap, mean_of

HELD, CHANGED = "held", "changed"
MEASURES: dict[str, Callable[[dict], float | None]] = {
    "joint": lambda row: float(all(_right(row, name) for name in row["target"])),
    "accuracy": lambda row: float(np.mean([_right(row, name) for name in row["target"]])),
    "coherence": lambda row: row["nli"],
    "changed_attribute": lambda row: float(_right(row, row["changed"])) if row["changed"] else None,
    "other_attributes": lambda row: (
        float(np.mean([_right(row, name) for name in row["target"] if name != row["changed"]]))
        if row["changed"] and len(row["target"]) > 1
        else None
    ),
    "repeated": lambda row: float(row["repeated"]),
    "read_all": lambda row: float(row["read_all"]),
}  # name -> a reply's value; None where it does not apply


def _right(row: dict, attribute: str) -> bool:
    return row["predicted"][attribute] == row["target"][attribute]


def by_turn(rows: Sequence[dict], seed: int = 0) -> list[dict]:
    """Every measure's mean per condition and turn, ``{"condition", "turn", "n", measure: {"value", "ci95"}}``.

    Intervals are over openings, whose conversations (one for each target) are drawn together.
    """
    found = []
    for condition in dict.fromkeys(row["condition"] for row in rows):
        for turn in sorted({row["turn"] for row in rows if row["condition"] == condition}):
            chosen = [row for row in rows if row["condition"] == condition and row["turn"] == turn]
            entry: dict = {"condition": condition, "turn": turn, "n": len(chosen)}
            found.append(entry | {name: _mean(chosen, of, seed) for name, of in MEASURES.items()})
    return found


def losses(rows: Sequence[dict], seed: int = 0) -> dict[str, dict]:
    """What is lost between the first turn and the last of conversations whose target is held: of joint accuracy and coherence, with
    paired intervals over openings; and of joint accuracy at the last turn where an aspect changed, against where none did."""
    last = max(row["turn"] for row in rows)
    held = [row for row in rows if row["condition"] == HELD]
    changed = [row for row in rows if row["condition"] == CHANGED and row["turn"] == last]
    first_turn = [row for row in held if row["turn"] == 1]
    last_turn = [row for row in held if row["turn"] == last]
    found = {
        name: _difference(first_turn, last_turn, MEASURES[name], seed) for name in ("joint", "coherence")
    }
    found["joint_by_change"] = (
        _difference(last_turn, changed, MEASURES["joint"], seed) if changed else {"value": None, "ci95": None}
    )
    return found


def _mean(rows: Sequence[dict], of: Callable[[dict], float | None], seed: int) -> dict:
    known = [(row["opening"], value) for row in rows if (value := of(row)) is not None]
    if not known:
        return {"value": None, "ci95": None}
    values = np.array([[value, 1.0] for _, value in known])
    interval = Bootstrap([opening for opening, _ in known], seed=seed).intervals(values, {"x": mean_of(0, 1)})
    return {"value": float(values[:, 0].mean()), "ci95": interval.get("x")}


def _difference(
    first: Sequence[dict], second: Sequence[dict], of: Callable[[dict], float | None], seed: int
) -> dict:
    """The first rows' mean minus the second's, resampled together by opening."""
    sides = [(row, 0) for row in first] + [(row, 1) for row in second]
    values = np.array(
        [[of(row) * (side == 0), side == 0, of(row) * side, side] for row, side in sides], dtype=float
    )

    def difference(sums: np.ndarray) -> np.ndarray:
        return mean_of(0, 1)(sums) - mean_of(2, 3)(sums)

    interval = Bootstrap([row["opening"] for row, _ in sides], seed=seed).intervals(values, {"x": difference})
    return {"value": float(difference(values.sum(axis=0))), "ci95": interval.get("x")}


def csv_rows(turns: Sequence[dict]) -> list[dict]:
    """A row per condition and turn, for a CSV file."""
    rows = []
    for one in turns:
        row = {name: one[name] for name in ("condition", "turn", "n")}
        for name in MEASURES:
            low, high = one[name]["ci95"] or (None, None)
            row |= {name: one[name]["value"], f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return rows
