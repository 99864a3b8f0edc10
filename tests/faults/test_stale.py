"""Numbers of other weights never stand in a table as if they were of these."""

from pathlib import Path

import pytest

from common.jsonl import read_json, write_json, write_jsonl
from generation.sharing import record_hash
from scoring.compare import different_data
from scoring.score import baseline_of
from scoring.stale import data_hash, evaluators_hash, mixed, stale_parts, stamp_of

SUMMARY = {"replies": 2, "contexts": 1, "targets": ["a", "b"]}


class Columns:
    """What `baseline_of` asks of columns."""

    def summary(self) -> dict:
        return SUMMARY


@pytest.fixture
def run(tmp_path) -> Path:
    record = {
        "overall": {"accuracy_mean": 0.5},
        "run": {"requests": SUMMARY, "cvae": "c1"},
        "evaluators": {"mood": {"hash": "m1"}, "nli": {"hash": "n1"}},
    }
    write_json(tmp_path / "results" / "none.json", record)
    return tmp_path


def found(run, cvae="c1", mood="m1", nli="n1"):
    return baseline_of(run, "control", Columns(), cvae, {"mood": {"hash": mood}, "nli": {"hash": nli}})


def test_the_same_weights_are_compared(run):
    assert found(run) == ({"accuracy_mean": 0.5}, [])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cvae": "c2"}, "CVAE"),
        ({"mood": "m2"}, "evaluator mood"),
        ({"nli": "n2", "cvae": "c2"}, "CVAE, evaluator nli"),
    ],
)
def test_others_are_named_and_left_out(run, changed, named):
    baseline, (warning,) = found(run, **changed)
    assert (
        baseline is None and f"is of another {named} and is not shown" in warning and "--name none" in warning
    )


def test_what_was_written_before_hashes_were_kept_is_compared_as_before(run):
    write_json(
        run / "results" / "none.json",
        {"overall": {"accuracy_mean": 0.5}, "run": {"requests": SUMMARY}, "evaluators": {}},
    )
    assert found(run)[0] == {"accuracy_mean": 0.5}


def test_other_requests_are_another_matter(run):
    write_json(
        run / "results" / "none.json",
        {"overall": {}, "run": {"requests": {}, "cvae": "c2"}, "evaluators": {}},
    )
    assert found(run) == (None, [])


def test_other_contexts_of_the_same_number_are_named(run):
    stored = read_json(run / "results" / "none.json")
    stored["run"]["requests"] = SUMMARY | {"hash": "h1"}
    write_json(run / "results" / "none.json", stored)

    class Others(Columns):
        def summary(self) -> dict:
            return SUMMARY | {"hash": "h2"}

    baseline, (warning,) = baseline_of(run, "control", Others(), "c1", {})
    assert baseline is None and "is of another set of contexts" in warning
    assert found(run)[0]  # one of the two is not known


EVALUATORS = {"mood": {"hash": "m1"}, "nli": {"hash": "n1"}}
PLACES = {"mood": "classifier/mood", "nli": "nli"}


@pytest.fixture
def whole(tmp_path) -> Path:
    """A run whose parts belong together."""
    inputs = {"contents": {"the training dialogues of mood": "d1", "the base encoder": "e1"}}
    stage = {"metrics": {"hash": "c1"}, "inputs": inputs}
    write_json(tmp_path / "cvae" / "stage.json", stage)
    for name, place in PLACES.items():
        write_json(tmp_path / place / "stage.json", {"metrics": EVALUATORS[name]})
    run = {"cvae": "c1", "data": {"training": data_hash(stage)}}
    write_json(tmp_path / "results.json", {"overall": {}, "run": run, "evaluators": EVALUATORS})
    row = {"response": "Yes.", "cvae": "c1", "evaluators": evaluators_hash(EVALUATORS)}
    write_jsonl(tmp_path / "generations.jsonl", [row])
    return tmp_path


def change(path: Path, *keys, value) -> None:
    content = read_json(path)
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    write_json(path, content)


def test_a_run_of_one_piece_has_no_warning(whole):
    assert stale_parts(whole, PLACES) == []


@pytest.mark.parametrize(
    ("place", "keys", "named"),
    [
        ("cvae/stage.json", ("metrics", "hash"), "results.json was measured with another CVAE than"),
        ("nli/stage.json", ("metrics", "hash"), "measured with another evaluator nli than"),
        (
            "cvae/stage.json",
            ("inputs", "contents", "the training dialogues of mood"),
            "with another training data than",
        ),
    ],
)
def test_what_was_trained_again_since_is_named(whole, place, keys, named):
    change(whole / place, *keys, value="other")
    (line,) = stale_parts(whole, PLACES)
    assert named in line and "bash gen_cvae.sh" in line


@pytest.mark.parametrize(("key", "named"), [("cvae", "another CVAE than"), ("evaluators", "another evaluators than")])  # fmt: skip
def test_replies_of_another_time_are_named(whole, key, named):
    row = {"response": "Yes.", "cvae": "c1", "evaluators": evaluators_hash(EVALUATORS)}
    write_jsonl(whole / "generations.jsonl", [row | {key: "other"}])
    (line,) = stale_parts(whole, PLACES)
    assert "generations.jsonl was made with" in line and named in line


def test_weights_that_were_merged_or_made_compact_are_the_same_training(whole):
    record_hash(whole / "cvae")
    record_hash(whole / "cvae")
    stage = read_json(whole / "cvae" / "stage.json")
    assert stage["metrics"]["trained_hash"] == "c1" != stage["metrics"]["hash"]
    assert stale_parts(whole, PLACES) == []


def test_files_without_hashes_are_taken_as_they_are(whole):
    write_jsonl(whole / "generations.jsonl", [{"response": "Yes."}])
    assert stamp_of(whole / "generations.jsonl") == {"cvae": None, "evaluators": None}
    assert stamp_of(whole / "nothing.jsonl") == {"cvae": None, "evaluators": None}
    (whole / "generations.jsonl").write_text("no JSON\n")
    assert stale_parts(whole, PLACES) == []
    assert mixed({"overall": {}}, {"cvae": "c2", "evaluators": None}) == []


def test_systems_of_other_data_are_named():
    systems = [{"name": name, "data": data} for name, data in (("a", "1"), ("b", "1"), ("c", "2"), ("d", None))]  # fmt: skip
    assert different_data(systems) == ["trained on other data than a: c"]
