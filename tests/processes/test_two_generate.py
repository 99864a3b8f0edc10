"""Two processes write and score what one does, to the last digit; what an ended one has written is kept."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from two import ROOT, together

import scoring.score
from common.jsonl import write_jsonl
from common.options import parse_arguments
from common.parts import SharedParts
from common.schema import load_schema
from generation import run
from scoring import score
from scoring.columns import Gatherer, joined
from scripts.bench_scoring import synthetic

WORDS = "--limit 2 --candidates 2 --batch_size 8 --max_new_tokens 12 --decoding top_p --preset scratch --sweep_weights 2"
SCHEMA = str(ROOT / "schema.py")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_processes_write_and_score_as_one(tiny_run, tmp_path, monkeypatch, one_thread):
    place = tmp_path / "r"
    shutil.copytree(tiny_run, place)
    monkeypatch.setattr(scoring.score, "SMALLEST", 4)
    words = [*f"{WORDS} --outs {tmp_path} --run r --schema {SCHEMA}".split(), "--name"]
    run.generate(*parse_arguments(run.OPTIONS, "generation", [*words, "one"], ""))
    killed = together("generation", [*words, "two"], "1 1 9")
    assert killed.returncode == 128 + 9 and "ended by SIGKILL" in killed.stderr
    assert (place / "generations" / "two.replies.1.partial").is_file()
    done = together("generation", [*words, "two"])
    assert done.returncode == 0, done.stderr
    kept = int(done.stdout.partition("going on behind ")[2].split()[0])
    assert 4 <= kept < 16  # one part of four replies at least
    texts = [(place / "generations" / f"{name}.jsonl").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1] and texts[0].count("\n") == 16
    records = [json.loads((place / "results" / f"{name}.json").read_text()) for name in ("one", "two")]
    for key in ("overall", "by_target", "references", "evaluators", "warnings"):
        assert records[0][key] == records[1][key]
    assert records[1]["run"]["processes"] == 2
    for kind in ("sweep", "latents"):
        found = [
            json.loads((place / "results" / f"{name}.{kind}.json").read_text()) for name in ("one", "two")
        ]
        assert found[0] == found[1]
    assert not list(place.rglob("*.partial"))


@pytest.mark.slow
def test_processes_share_the_summing_up(tmp_path):
    for name in ("one", "two"):
        write_jsonl(tmp_path / f"{name}.jsonl", synthetic(300, load_schema(SCHEMA)))
    assert score.main([str(tmp_path / "one.jsonl"), "--no-evaluators", "--schema", SCHEMA]) == 0
    command = [sys.executable, "-m", "scoring.score", str(tmp_path / "two.jsonl"), "--no-evaluators"]
    done = subprocess.run(
        [*command, "--schema", SCHEMA, "--processes", "2"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("two: 300 replies") == 1, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.results.json").read_text()) for name in ("one", "two"))
    for key in ("overall", "by_target"):
        assert one[key] == two[key]
    assert one["run"]["requests"] == two["run"]["requests"]


def test_gatherers_are_joined_in_the_parts_order():
    schema = load_schema(SCHEMA)
    rows = list(synthetic(40, schema))
    parts = [rows[begin : begin + 7] for begin in range(0, 40, 7)]
    whole, some = Gatherer(schema), [Gatherer(schema) for _ in range(3)]
    for number in (4, 1, 0, 5, 3, 2):
        some[number % 3 if number else 2].add(parts[number], number)
    for part in parts:
        whole.add(part)
    one, two = whole.finish(), joined(some).finish()
    assert one.replies == two.replies and one.targets == two.targets and one.summary() == two.summary()
    for name in ("values", "wanted", "predicted", "context", "request", "target"):
        assert (getattr(one, name) == getattr(two, name)).all() or name == "values"
    torch.testing.assert_close(
        torch.tensor(one.values), torch.tensor(two.values), rtol=0, atol=0, equal_nan=True
    )


def test_parts_of_any_number_of_processes_count(tmp_path, monkeypatch):
    """Three processes wrote, and were ended; one goes on."""
    path = tmp_path / "x.replies.partial"
    for rank, numbers in ((0, (0, 3)), (1, (4,)), (2, (2,))):
        monkeypatch.setattr("common.parts.rank", lambda rank=rank: rank)
        parts = SharedParts(path, "f", 6)
        for number in numbers:
            parts.close_part(number, [{"n": number}, {"m": number}])
    monkeypatch.undo()
    cut = tmp_path / "x.replies.1.partial"
    cut.write_bytes(cut.read_bytes() + b'{"n": 5}\n{"m')
    again = SharedParts(path, "f", 6)
    assert sorted(again.found) == [0, 2, 3, 4] and again.mine() == [1, 5]
    for number in again.mine():
        again.close_part(number, [{"n": number}])
    again.complete()
    assert [row.get("n", row.get("m")) for row in again.rows()] == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5]
    assert [note["part"] for note in again.notes] == [0, 1, 2, 3, 4, 5]
    again.remove()
    assert not list(tmp_path.iterdir())
    assert len(SharedParts(path, "another", 6)) == 0
