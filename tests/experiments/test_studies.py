"""Studies of one run: which conversations are held, and both commands on a tiny run."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.errors import InputError
from common.jsonl import read_json
from common.schema import load_schema
from experiments import conversations, dials
from experiments.conversations import CHANGED, FOLLOW_UPS, HELD, follow_ups_of, hold, planned

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Said:
    """As much of a reply as a conversation needs."""

    text: str
    context: tuple
    target: dict
    predicted: dict = field(default_factory=dict)
    probabilities: dict = field(default_factory=dict)
    coherence: float = 0.5
    seed: int = 0
    cut: object = None


def test_conversations_share_their_first_half_and_part_where_an_aspect_changes():
    schema, lines = load_schema(), follow_ups_of(FOLLOW_UPS)
    assert len(lines) >= 12
    plan = planned(["Hello?", "My bread did not rise."], schema, 8, lines, seed=0)
    assert len(plan) == 16 and {c.changed for c in plan} == set(schema.names)
    asked = []

    def write(contexts, targets):
        asked.append(len(contexts))
        return [
            Said(f"{'+'.join(t.values())} {len(c)}", tuple(c), t, dict(t)) for c, t in zip(contexts, targets)
        ]

    rows = hold(plan, 8, write)
    assert asked == [16] * 4 + [32] * 4 and len(rows) == 2 * 16 * 8
    for one in plan:
        held, changed = (
            [r for r in rows if r["conversation"] == one.number and r["condition"] == c]
            for c in (HELD, CHANGED)
        )
        assert [r["turn"] for r in held] == list(range(1, 9)) == [r["turn"] for r in changed]
        assert [r["response"] for r in held][:4] == [r["response"] for r in changed][:4]
        assert all(r["target"] == held[0]["target"] for r in held)
        (name,) = {n for n in schema.names if changed[4]["target"][n] != held[0]["target"][n]}
        assert name == one.changed == changed[0]["changed"] and held[0]["changed"] is None
        assert changed[7]["target"] == changed[4]["target"] and changed[3]["target"] == held[0]["target"]
        context = changed[7]["context"]
        assert len(context) == 15 and context[0] == one.opening and context[1] == changed[0]["response"]
        assert len(set(context[2::2])) == 7 and set(context[2::2]) <= set(lines)
        assert not any(r["repeated"] for r in held)
    again = planned(["Hello?", "My bread did not rise."], schema, 8, lines, seed=0)
    assert [c.follow_ups for c in again] == [c.follow_ups for c in plan]
    with pytest.raises(InputError, match="8 turns need 7 different follow-ups, found 3"):
        planned(["Hello?"], schema, 8, lines[:3], seed=0)


def test_a_reply_that_comes_again_is_noted():
    plan = planned(["Hello?"], load_schema(), 4, follow_ups_of(FOLLOW_UPS), seed=0)
    rows = hold(
        plan, 4, lambda contexts, targets: [Said("Yes.", tuple(c), t) for c, t in zip(contexts, targets)]
    )
    assert all(row["repeated"] == (row["turn"] > 1) for row in rows)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (dials, ["--strengths", "1"], "--strengths must be two or more numbers from 0 to 100000"),
        (dials, ["--strengths", "1,x"], "--strengths must be two or more numbers from 0 to 100000"),
        (dials, ["--replies", "0"], "--replies must be 1 or more, found 0"),
        (dials, ["--limit", "0"], "--limit must be 1 or more, found 0"),
        (conversations, ["--turns", "1"], "--turns must be 2 or more, found 1"),
        (conversations, ["--follow-ups", "no.yaml"], "follow-ups not found: no.yaml"),
        (
            conversations,
            ["--follow-ups", str(ROOT / "scripts/presets/demo.yaml")],
            "expected a list of texts",
        ),
    ],
)
def test_mistakes_are_one_line(module, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        module.main([str(tmp_path), *options])


@pytest.mark.slow
def test_both_commands_on_a_tiny_run(tiny_run, tmp_path, capsys):
    short = ["--limit", "2", "--candidates", "1", "--schema", str(ROOT / "schema.py"), "--device", "cpu"]
    place = ["--output-dir", str(tmp_path)]
    assert (
        dials.main(
            [
                *[str(tiny_run), *short, *place, "--attributes", "attitude"],
                *["--strengths", "0,5,50", "--replies", "2", "--seed", "3"],
            ]
        )
        == 0
    )
    assert "attitude: monotone in " in capsys.readouterr().out
    with open(tmp_path / "dials.csv", newline="") as file:
        assert [row["strength"] for row in csv.DictReader(file)] == ["0.0", "5.0", "50.0"]
    assert (tmp_path / "dials.png").stat().st_size > 5000
    rows = [json.loads(line) for line in (tmp_path / "attitude.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 8 * 3 * 2 and {row["seed"] for row in rows} == {3, 4}

    assert conversations.main([str(tiny_run), *short, *place, "--turns", "3"]) == 0
    assert "lost from the first turn to the last" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "conversations.jsonl").read_text().splitlines()]
    openings = {row["opening"] for row in rows}
    assert len(rows) == 2 * 3 * 8 * len(openings) and (tmp_path / "turns.png").stat().st_size > 5000
    found = read_json(tmp_path / "conversations.json")
    assert [(one["condition"], one["turn"]) for one in found["turns"]] == [
        (c, t) for c in (HELD, CHANGED) for t in (1, 2, 3)
    ]
