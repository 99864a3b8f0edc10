"""Conversations of hand-made replies: by turn, what is lost, what a change costs."""

import pytest

from scoring.conversations import by_turn, csv_rows, losses

TARGET = {"style": "plain", "mood": "calm"}


def row(opening, turn, right, nli, condition="held", changed=None, **more):
    """A reply that has the aspects of the attributes in `right`."""
    predicted = {name: TARGET[name] if name in right else "other" for name in TARGET}
    common = {"opening": opening, "turn": turn, "condition": condition, "changed": changed, "nli": nli}
    return common | {"target": TARGET, "predicted": predicted, "repeated": False, "read_all": True} | more


BOTH, ONE = ("style", "mood"), ("style",)
ROWS = [
    row("a", 1, BOTH, 0.9),
    row("b", 1, BOTH, 0.7),
    row("a", 2, BOTH, 0.5, repeated=True),
    row("b", 2, ONE, 0.5, read_all=False),
    row("a", 2, ONE, 0.4, "changed", "mood"),
    row("b", 2, (), 0.4, "changed", "style"),
]


def test_by_turn():
    first, second, changed = by_turn(ROWS)
    assert (first["condition"], first["turn"], first["n"]) == ("held", 1, 2)
    assert first["joint"]["value"] == 1.0 and second["joint"]["value"] == 0.5
    assert first["coherence"]["value"] == pytest.approx(0.8) and first["changed_attribute"]["value"] is None
    assert second["repeated"]["value"] == 0.5 and second["read_all"]["value"] == 0.5
    assert second["accuracy"]["value"] == 0.75 and second["accuracy"]["ci95"] == [0.5, 1.0]
    assert changed["changed_attribute"]["value"] == 0.0  # neither has the aspect that changed
    assert changed["other_attributes"]["value"] == 0.5
    lines = csv_rows([first, second, changed])
    assert lines[0]["changed_attribute"] is None and lines[1]["joint"] == 0.5 and lines[1]["joint_low"] == 0.0


def test_what_is_lost():
    lost = losses(ROWS)
    assert lost["joint"]["value"] == 0.5 and lost["joint"]["ci95"] == [0.0, 1.0]
    assert lost["coherence"]["value"] == pytest.approx(0.3) and lost["coherence"]["ci95"] == pytest.approx(
        [0.2, 0.4]
    )
    assert lost["joint_by_change"]["value"] == 0.5
    assert losses(ROWS[:4])["joint_by_change"] == {"value": None, "ci95": None}
