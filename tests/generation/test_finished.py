"""generation/finished.py: what is done is not done again, and what differs is."""

import json

import pytest

from generation.finished import finished, inputs_hash, unfinished
from generation.kept import replies_digest


@pytest.fixture
def run_folder(tmp_path):
    """A run with replies without control, with control, and their results."""
    for name in ("none", "control"):
        replies = tmp_path / "generations" / f"{name}.jsonl"
        replies.parent.mkdir(exist_ok=True)
        replies.write_text(json.dumps({"response": f"{name} replies", "cvae": "c"}) + "\n")
        run = {"inputs": "i", "replies": replies_digest(replies), "cvae": "c", "requests": {"n": 1}}
        run["beside"] = ["latents"] if name == "control" else []
        place = tmp_path / "results" / f"{name}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(
            json.dumps({"overall": {"n": 1}, "baseline": {"n": 1} if name == "control" else None, "run": run})
        )
    for name in ("results/control.latents.json", "generations.jsonl", "results.json"):
        (tmp_path / name).write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize("name", ["none", "control"])
def test_the_same_inputs_are_finished_and_others_are_not(run_folder, name):
    assert finished(run_folder, name, "i")["overall"] == {"n": 1}
    assert finished(run_folder, name, "j") is finished(run_folder, name, None) is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("generations/control.jsonl", '{"response": "another"}\n'),
        ("generations/control.jsonl", None),
        ("results/control.json", "{"),
        ("results/control.latents.json", None),
        ("results.json", None),
        ("results/none.json", None),  # the table's baseline
        ("results/none.json", '{"overall": {"n": 2}, "run": {"requests": {"n": 1}}}'),
        ("generations/control.replies.partial", "ended before all was on disk"),
    ],
)
def test_what_is_lost_or_altered_is_done_again(run_folder, file, content):
    path = run_folder / file
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_text(content)
    assert finished(run_folder, "control", "i") is None


def test_what_is_measured_counts_and_where_it_lies_does_not():
    options = {"ppl_model": None, "trace": True, "sweep_weights": None, "weights": 3, "name": "a"}
    one = inputs_hash("r", "e", options)
    assert one == inputs_hash("r", "e", options | {"name": "b"})
    for other in (("s", "e", options), ("r", "f", options), ("r", "e", options | {"ppl_model": "m"})):
        assert inputs_hash(*other) != one
    assert inputs_hash("r", None, options) is None


def test_the_partial_file_is_the_decoding_s_own(tmp_path):
    assert unfinished(tmp_path / "mine.jsonl").name == "mine.replies.partial"
