"""Numbers of other weights never stand in a table as if they were of these."""

from pathlib import Path

import pytest

from common.jsonl import write_json
from scoring.score import baseline_of

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
