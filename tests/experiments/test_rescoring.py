"""Other evaluators than those of the first start: kept replies are scored again, and nothing is trained or written."""

import json
import shutil

import pytest
import torch
from test_experiment import (  # noqa: F401  (fixtures)
    PARROT,
    evaluators,
    grid_file,
    loaded_once,
    parrot,
    rows_of,
)
from transformers import BertForSequenceClassification

from common.errors import InputError
from common.jsonl import read_json, read_jsonl, write_json
from experiments.__main__ import main
from experiments.evaluators import Evaluators
from experiments.grid import read_grid
from model.bases import weights_hash

MODELS = {"people": {"kind": "human"}, "parrot": PARROT}


@pytest.fixture
def others(evaluators, tmp_path):  # noqa: F811
    """The evaluators with another attitude classifier."""
    run = tmp_path / "others"
    shutil.copytree(evaluators, run)
    place = run / "classifier" / "attitude"
    model = BertForSequenceClassification.from_pretrained(place)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=torch.Generator().manual_seed(9)))
    model.save_pretrained(place)
    record = read_json(place / "stage.json")
    record["metrics"]["hash"] = weights_hash(place)
    write_json(place / "stage.json", record)
    return run


def test_kept_replies_are_scored_by_other_evaluators(grid_file, parrot, others, capsys):  # noqa: F811
    path = grid_file(MODELS)
    assert main([str(path)]) == 0
    trained, first = len(parrot.trained), rows_of(path)
    assert main([str(grid_file(MODELS, evaluators=str(others)))]) == 0
    assert "4 cells, 0 of them measured already" in capsys.readouterr().out
    assert len(parrot.trained) == trained and parrot.written == [1, 2, 3]
    old, new = first[1:], [row for row in rows_of(path)[len(first) :] if row["kind"] == "parrot"]
    assert len(new) == 3
    for before, after in zip(old, new):
        same = [
            name
            for name in before
            if name.startswith(("seconds_", "training", "generation", "device", "written"))
        ]
        same.remove("seconds_scoring")
        assert {name: before[name] for name in same} == {name: after[name] for name in same}
        assert before["key"] != after["key"] and before["evaluators"] != after["evaluators"]
    folder = path.parent / "experiments" / "grid" / "generations"
    was, now = ([one for _, one in read_jsonl(folder / f"{row['key']}.jsonl")] for row in (old[0], new[0]))
    assert [one["response"] for one in was] == [one["response"] for one in now]
    for attribute, alike in (("languagestyle", True), ("attitude", False)):
        probabilities = [[one["probabilities"][attribute] for one in some] for some in (was, now)]
        assert (probabilities[0] == probabilities[1]) is alike, attribute


def test_damaged_and_missing_replies_are_written_again(grid_file, parrot, others):  # noqa: F811
    path = grid_file(MODELS)
    assert main([str(path)]) == 0
    folder = path.parent / "experiments" / "grid" / "generations"
    one, two, three = [folder / f"{row['key']}.jsonl" for row in rows_of(path)[1:]]
    one.unlink()
    lines = [json.loads(line) for line in two.read_text().splitlines()]
    two.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    assert three.is_file()
    assert main([str(grid_file(MODELS, evaluators=str(others)))]) == 0
    assert parrot.written == [1, 2, 3, 1, 2] and len(rows_of(path)) == 8


def test_a_run_s_classifiers_can_be_the_second_set(grid_file, parrot, others):  # noqa: F811
    """Neither set is trained, and rows that had none get their numbers without being written again."""
    path = grid_file({"parrot": PARROT})
    assert main([str(path)]) == 0 and {row["both_joint"] for row in rows_of(path)} == {""}
    assert main([str(grid_file({"parrot": PARROT}, second_evaluators=str(others)))]) == 0
    assert parrot.written == [1, 2, 3]
    rows = rows_of(path)[3:]
    assert all(float(row["both_joint"]) <= float(row["accuracy_joint"]) for row in rows)
    assert "second attitude" in json.loads(rows[0]["evaluators"])
    with pytest.raises(InputError, match="second_evaluators: there is a second set already"):
        read_grid(grid_file({"parrot": PARROT}, second_evaluators="a", second_encoder="b"))
    with pytest.raises(InputError, match="grid.yaml: second_evaluators: expected a run's folder"):
        main([str(grid_file({"parrot": PARROT}, second_evaluators="nowhere")), "--dry-run"])


def test_a_cell_that_cannot_be_scored_again_fails_alone(grid_file, parrot, others, monkeypatch):  # noqa: F811
    path = grid_file({"parrot": PARROT})
    assert main([str(path)]) == 0
    score, calls = Evaluators.score, []

    def scored(self, rows):
        calls.append(rows)
        if len(calls) == 2:
            raise RuntimeError("out of room")
        score(self, rows)

    monkeypatch.setattr(Evaluators, "score", scored)
    assert main([str(grid_file({"parrot": PARROT}, evaluators=str(others)))]) == 1
    assert parrot.written == [1, 2, 3] and [row["strength"] for row in rows_of(path)[3:]] == ["1", "3"]
    assert "out of room" in (path.parent / "experiments" / "grid" / "failures.csv").read_text()
