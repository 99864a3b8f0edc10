"""Self-training: what is written to, what is accepted, what is trained on, and what is watched."""

import json
import math
import random

import pytest

from common.errors import InputError
from common.jsonl import read_json, read_jsonl
from common.options import CommonArguments, parse_arguments
from common.parts import Parts
from common.schema import Attribute, Schema, load_schema, target_name
from dataset.dialogues import Dialogue, parse_dialogue, without_targets
from training import cvae, self_training
from training.marginal_relevance import marginally_best
from training.self_guards import distinct2, reused, training_replies
from training.self_written import (
    Acceptance,
    SelfWritten,
    by_target,
    dialogue_row,
    read_written,
    requests_for,
    training_contexts,
)

BOTH = {"style": "lyrical", "mood": "calm"}


def written(probability=0.9, response="It is.", target=None, relevance=0.5):
    return SelfWritten(("Is it?",), target or BOTH, response, probability, -1.0, relevance)


@pytest.fixture
def schema(tmp_path):
    """Two attributes with two training dialogues each; one training context stands in a dev file too."""

    def file(name, *rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def row(turns, tag):
        return {"input": turns[::2], "output": turns[1::2], "tag": tag}

    style = file("style", row(["A?", "Yes a."], "plain"), row(["B?", "No.", "C?", "Yes c."], "lyrical"))
    mood = file("mood", row(["A?", "Calm a."], "calm"), row(["D?", "Angry d."], "angry"))
    dev = file("dev_style", row(["  d? ", "Fine."], "plain"), row(["E?", "Fine."], "lyrical"))
    test = file("test", row(["T?"], None), row(["B?", "No.", "U?"], None))
    return Schema(
        (
            Attribute("style", ("plain", "lyrical"), dialogues=style, dev_dialogues=dev),
            Attribute("mood", ("calm", "angry"), dialogues=mood, dev_dialogues=dev.with_name("dev_mood.jsonl")),
        ),
        test=test,
        path=tmp_path / "schema.py",
    )  # fmt: skip


# --- what is written to ---------------------------------------------------------------------------------------------------


def test_different_training_contexts_are_written_to_but_none_of_dev_or_test(schema, capsys):
    contexts = training_contexts(schema, None, None, None)
    assert contexts == [("A?",), ("B?", "No.", "C?")]  # D? stands in dev with other spaces and capitals
    assert "1 of 3 training contexts stand in a dev or test file and are left out" in capsys.readouterr().out
    assert training_contexts(schema, None, 1, None) == [("A?",)]


@pytest.mark.parametrize(("turns", "there"), [(["T?"], "test.jsonl:1"), (["E?"], "dev_style.jsonl:2"), (["B?", "no.", "u?"], "test.jsonl:2")])  # fmt: skip
def test_a_file_with_a_dev_or_test_context_is_refused_with_both_lines(schema, tmp_path, turns, there):
    path = tmp_path / "mine.jsonl"
    rows = [{"input": ["New?"], "output": []}, {"input": turns[::2], "output": turns[1::2]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=rf"mine.jsonl:2: this context stands in .*{there} too; replies to train on are never"):  # fmt: skip
        training_contexts(schema, path, None, None)
    path.write_text(json.dumps(rows[0]) + "\n")
    assert training_contexts(schema, path, None, None) == [("New?",)]


def test_no_context_left_is_said(schema, tmp_path):
    only = Schema((schema.attributes[0],), test=schema.attributes[0].dialogues, path=schema.path)
    with pytest.raises(InputError, match=r"schema.py: no training context is left to write replies to"):
        training_contexts(only, None, None, None)


def test_every_context_is_asked_for_every_combination(schema):
    requests = requests_for([("A?",), ("B?",)], schema.combinations())
    assert len(requests) == 8 and len({request.key for request in requests}) == 8
    assert requests[5].context == ("B?",) and requests[5].target == {"style": "plain", "mood": "angry"}


# --- what is accepted -----------------------------------------------------------------------------------------------------


def test_acceptance_is_over_the_thresholds_and_of_equal_replies_the_first():
    every = [
        written(0.9, "It is."),
        written(0.79, "Too unsure."),
        written(0.8, "Just."),
        written(1.0, "it  IS."),
        written(1.0, " "),
        written(0.95, "Off the point.", relevance=-0.1),
        written(0.95, "Not weighed.", relevance=None),
    ]
    kept = Acceptance(1.0, 0.8, 0.0, 1).accepted(every)
    assert [one.response for one in kept] == ["It is.", "Just."]
    assert [one.response for one in Acceptance(1.0, 0.8, 0.0, 2).accepted(every)] == [
        "It is.",
        "Just.",
        "it  IS.",
    ]
    anything = Acceptance(1.0, 0.0, -math.inf, 1).accepted(every)
    assert [one.response for one in anything] == ["It is.", "Too unsure.", "Just.", "Off the point.", "Not weighed."]  # fmt: skip


def test_the_best_of_every_combination_are_taken_however_probable_the_others_are():
    """A threshold alone left out four of eight combinations of a real model, whose best were under the worst of the rest."""
    hard = {"style": "lyrical", "mood": "angry"}
    every = [written(p, f"Easy {p}") for p in (0.7, 0.9, 0.8)] + [written(p, f"Hard {p}", hard) for p in (0.1, 0.3, 0.3)]  # fmt: skip
    kept = Acceptance(0.5, 0.0, -math.inf, 1).accepted(every)
    assert [one.response for one in kept] == ["Easy 0.9", "Easy 0.8", "Hard 0.3"]
    two = [written(0.3, "First", hard), written(0.3, "Second", hard)]
    assert [one.response for one in Acceptance(0.5, 0.0, -math.inf, 1).accepted(two)] == ["First"]


def test_with_diversity_what_was_taken_before_counts_against_a_reply():
    """Three that say the same lead by probability; with diversity one of them is taken, and those that say something else."""
    same = [written(p, f"A warm hand holds {what}") for p, what in ((0.9, "you"), (0.85, "me"), (0.8, "us"))]
    every = [
        *same,
        written(0.7, "The sea is wide tonight"),
        written(0.6, "Bread needs an hour"),
        written(0.1, "No idea"),
    ]
    plain = Acceptance(0.5, 0.0, -math.inf, 1).accepted(every)
    assert [one.probability for one in plain] == [0.9, 0.85, 0.8]
    diverse = Acceptance(0.5, 0.0, -math.inf, 1, diversity=1.0).accepted(every)
    assert [one.probability for one in diverse] == [0.9, 0.7, 0.6]
    little = Acceptance(0.5, 0.0, -math.inf, 1, diversity=0.01).accepted(every)
    assert little == plain


def test_marginal_relevance_is_that_of_the_plain_greedy_choice():
    """The lazy choice equals the one that compares all texts every time."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices("abcde", k=6)) for _ in range(60)] + ["", "a", "no"]
    scores = [round(generator.random(), 1) for _ in texts]  # many equal ones

    def pairs(text):
        return set(zip(text.split(), text.split()[1:]))

    left, held, expected = list(range(len(texts))), set(), []
    while len(expected) < 40:
        values = {
            n: scores[n] - 0.7 * (len(pairs(texts[n]) & held) / max(1, len(pairs(texts[n])))) for n in left
        }
        best = min(left, key=lambda n: (-values[n], n))
        left.remove(best), expected.append(best)
        held |= pairs(texts[best])
    assert marginally_best(texts, scores, 40, 0.7) == expected
    assert marginally_best(texts, scores, 99, 0.0) == sorted(range(len(texts)), key=lambda n: -scores[n])


def test_acceptance_is_counted_by_combination(schema):
    other = {"style": "plain", "mood": "calm"}
    every = [written(0.9), written(0.5), written(0.2, target=other)]
    found = by_target(every, every[:1], [*schema.combinations()])
    assert found["lyrical+calm"] == {"written": 2, "accepted": 1, "share": 0.5, "probability": 0.7}
    assert found["plain+calm"] == {"written": 1, "accepted": 0, "share": 0.0, "probability": 0.2}
    assert found["plain+angry"] == {"written": 0, "accepted": 0, "share": None, "probability": None}


def test_a_written_reply_is_a_row_of_a_dialogue_file_with_all_its_labels(three):
    one = SelfWritten(("A?", "Yes.", "B?"), {"style": "lyrical", "mood": "sad"}, "Rain.", 0.9, None, None)
    row = dialogue_row(one, three)
    assert row["tag"] == ["lyrical", None, "sad"]
    back = parse_dialogue(row, three, "x", "0")
    assert (back.context, back.response, back.target) == (one.context, one.response, one.target)


def test_a_damaged_file_of_replies_is_said(tmp_path):
    parts = Parts(tmp_path / "replies.jsonl", "f")
    parts.close_part([{"context": ["A?"], "target": BOTH}], {"seconds": {}})
    with pytest.raises(InputError, match=r"replies.jsonl: a row without 'response'; delete the file"):
        read_written(parts)


# --- what is trained on ---------------------------------------------------------------------------------------------------


def test_further_dialogues_leave_the_real_ones_their_share_and_are_balanced(schema, tmp_path):
    path, calm, angry = tmp_path / "written.jsonl", ["lyrical", "calm"], ["lyrical", "angry"]
    rows = [{"input": [f"{n}?"], "output": ["Yes."], "tag": calm if n % 4 else angry} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def taken(real, **options):
        some, every = cvae.further_dialogues(cvae.FurtherArguments(further=str(path), **options), schema, real)  # fmt: skip
        return [target_name(dialogue.target) for dialogue in some], len(every)

    assert len(taken(10)[0]) == 40
    names, every = taken(12, real_share=0.5)
    assert every == 40 and names.count("lyrical+angry") == names.count("lyrical+calm") == 6
    assert len(taken(30, real_share=0.6)[0]) == 20 and taken(30, real_share=1.0)[0] == []
    names, every = taken(100, held_out=["lyrical+calm"])
    assert set(names) == {"lyrical+angry"} and len(names) == every == 10
    assert cvae.further_dialogues(cvae.FurtherArguments(), schema, 5) == ([], [])


def test_what_is_held_out_is_left_out_where_all_its_aspects_are_named(schema):
    single = Dialogue("0", ("A?",), "Yes.", {"style": "lyrical"})
    both, more = (Dialogue("1", ("A?",), "Yes.", BOTH | extra) for extra in ({}, {"third": "x"}))
    held_out = schema.held_out(["lyrical+calm"])
    assert without_targets([single, both, more], held_out) == [single]
    with pytest.raises(
        InputError, match="held_out: 'calm' is no combination of all attributes; there are plain"
    ):
        schema.held_out(["calm"])
    with pytest.raises(InputError, match="held_out: all combinations; at least one must be left"):
        schema.held_out([target_name(target) for target in schema.combinations()])


def test_trainings_from_before_there_were_further_dialogues_count():
    """A finished stage is compared by its settings, which must not name options that it did not have."""
    assert cvae.FurtherArguments().settings == {}
    assert "prior_combination" not in cvae.LossArguments().settings
    assert cvae.LossArguments(prior_combination="product").settings["prior_combination"] == "product"
    assert cvae.FurtherArguments(real_share=0.5).settings == {"real_share": 0.5}


# --- what is watched ------------------------------------------------------------------------------------------------------


def test_copies_are_counted_whatever_their_spaces_and_capitals(schema):
    known = training_replies(schema_without_dev(schema))
    assert known == {"yes a.", "no.", "yes c.", "calm a.", "angry d."}
    assert reused(["Yes  A.", "New.", "no.", "No"], known) == 0.5 and reused([], known) is None


def schema_without_dev(schema):
    return Schema(tuple(Attribute(a.name, a.aspects, a.dialogues) for a in schema.attributes))


def test_distinct2_is_the_mean_over_targets():
    alike, other = {"style": "plain"}, {"style": "lyrical"}
    pairs = [(alike, "a b c"), (alike, "a b c"), (other, "a b"), (other, "c d")]
    assert distinct2(pairs, 2) == 0.75 and distinct2(pairs, 1) == 1.0 and distinct2([], 1) is None


# --- the command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cvae.held_out", "plain+optimistic+critical"], "--cvae.further, real_share, classify_further, held_out: the self-training says them"),
        (["--least_relevance", "0", "--generation.fluency", "0", "--generation.relevance", "0"], "least_relevance: relevance is not computed"),
        (["--combinations", "plain"], "combinations: 'plain' is no combination of all attributes; there are plain"),
        (["--combinations", "plain+optimistic+critical", "--held_out", "plain+optimistic+critical"], "all of them are held out"),
        (["--diversity", "-1"], "diversity: expected a number from 0 that is finite, found -1.0"),
        (["--best_share", "0"], "best_share: expected a number over 0 and at most 1, found 0.0"),
        (["--threshold", "1.1"], "threshold: expected a number from 0 to 1, found 1.1"),
        (["--real_share", "0"], "real_share: expected a number over 0 and at most 1, found 0.0"),
        (["--latent_size", "8"], "unknown option --latent_size 8"),
        (["--cvae.latent_sizes", "8"], "unknown option --latent_sizes 8"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(words, said):
    with pytest.raises(InputError, match=said):
        self_training.configured(words)


def test_options_reach_their_stages(tmp_path):
    given = self_training.configured(
        ["--outs", str(tmp_path), "--run", "r", "--seed", "3", "--rounds", "2", "--held_out", "plain+optimistic+critical",
         "--cvae.latent_size", "8", "--generation.candidates", "5", "--limit", "4"]
    )  # fmt: skip
    assert given.options.rounds == 2 and given.options.held_out == ["plain+optimistic+critical"]
    assert given.trained.model.latent_size == 8 and given.trained.training.seed == 3
    assert given.writing.control.candidates == 5 and given.writing.control.seed == 3
    assert given.writing.of_round(2).seed == 5 and given.common.limit == 4
    assert len(given.options.targets(given.schema)) == 7
    assert given.place(2) == tmp_path / "r" / "self_training" / "round-2"


def test_the_presets_can_say_it(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("self_training: {rounds: 3, held_out: ['plain+optimistic+critical']}\n")
    _, options = parse_arguments(self_training.OPTIONS, "self_training", ["--preset", str(preset)], "")
    assert options.rounds == 3 and options.held_out == ["plain+optimistic+critical"]


QUICK = [
    "--preset", "scratch", "--limit", "6", "--rounds", "2", "--contexts", "3", "--dev_contexts", "2", "--best_share", "1", "--copies", "9",
    "--held_out", "lyrical+optimistic+critical", "--cvae.num_train_epochs", "1", "--generation.candidates", "2",
    "--generation.max_new_tokens", "12",
]  # fmt: skip


@pytest.mark.slow
def test_rounds_of_self_training_end_in_a_run_and_are_found_done(tmp_path, capsys, monkeypatch):
    words = [*QUICK, "--outs", str(tmp_path), "--run", "r"]
    assert self_training.main(words) == 0
    folder = tmp_path / "r" / "self_training"
    record = read_json(folder / "record.json")
    first, second = record["rounds"][1:]
    assert first["written"] == 21 and "lyrical+optimistic+critical" not in first["by_target"]
    assert record["rounds"][0]["dev"]["reused_written"] == 0.0 and second["dev"]["replies"] == 16
    schema = load_schema()
    for number in (1, 2):
        rows = [row for _, row in read_jsonl(folder / f"round-{number}" / "written.jsonl")]
        assert len(rows) == record["rounds"][number]["accepted"] > 0
        assert all(len(row["tag"]) == 3 and row["tag"] != ["lyrical", "optimistic", "critical"] for row in rows)  # fmt: skip
    stage = read_json(tmp_path / "r" / "cvae" / "stage.json")
    assert stage["self_training"]["round"] == 2 and stage["settings"]["further"] == "written.jsonl"
    trained = {part["attribute"]: part["dialogues"] for part in stage["data"] if part["split"] == "train"}
    assert 0 < trained["several"] <= sum(trained[name] for name in schema.names)
    assert (
        read_json(folder / "round-1" / "cvae" / "stage.json")["metrics"]["hash"] != stage["metrics"]["hash"]
    )

    before, weights = (
        (folder / "record.json").read_text(),
        (tmp_path / "r" / "cvae" / "stage.json").stat().st_mtime_ns,
    )
    capsys.readouterr()
    monkeypatch.setattr(
        "generation.generator.ReplyGenerator.decode",
        lambda *_, **__: pytest.fail("something is written again"),
    )
    assert self_training.main(words) == 0
    assert capsys.readouterr().out.count("already trained") == 3
    assert (folder / "record.json").read_text() == before
    assert (tmp_path / "r" / "cvae" / "stage.json").stat().st_mtime_ns == weights


@pytest.mark.slow
def test_a_student_may_go_on_from_its_teacher_which_may_be_a_run(tiny_run, tmp_path):
    words = [
        *QUICK,
        "--rounds",
        "1",
        "--student",
        "continued",
        "--teacher",
        str(tiny_run),
        "--no_classify_written",
    ]
    assert self_training.main([*words, "--outs", str(tmp_path), "--run", "r"]) == 0
    record = read_json(tmp_path / "r" / "self_training" / "record.json")
    assert record["options"]["teacher"] == tiny_run.name  # no machine's path
    assert {"accuracy_joint", "nli"} <= set(record["rounds"][1]["dev"])  # by the teacher's evaluators
    stage = read_json(tmp_path / "r" / "cvae" / "stage.json")
    assert "start_from" in stage["settings"] and stage["settings"]["classify_further"] is False
    with pytest.raises(
        InputError, match=r"none of 21 replies is accepted \(threshold 1.0; the most probable has"
    ):
        self_training.main([*words, "--threshold", "1", "--outs", str(tmp_path), "--run", "s"])


@pytest.mark.slow
def test_an_ended_writing_goes_on(tiny_run, tmp_path, monkeypatch):
    """Two parts of three are written when it is stopped; the third alone is written then, and all is as in one go."""
    monkeypatch.setattr("generation.kept.AT_ONCE", 14)
    words = [*QUICK, "--rounds", "1", "--teacher", str(tiny_run), "--outs", str(tmp_path)]
    from generation.generator import ReplyGenerator

    drafts, calls = ReplyGenerator.drafts, []

    def stopping(self, requests, *rest):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(requests))
        return drafts(self, requests, *rest)

    monkeypatch.setattr(ReplyGenerator, "drafts", stopping)
    with pytest.raises(KeyboardInterrupt):
        self_training.main([*words, "--dev_contexts", "0", "--run", "r"])
    monkeypatch.setattr(ReplyGenerator, "drafts", lambda self, requests, *rest: calls.append(len(requests)) or drafts(self, requests, *rest))  # fmt: skip
    assert self_training.main([*words, "--dev_contexts", "0", "--run", "r"]) == 0
    assert calls == [7, 7, 7]
    assert self_training.main([*words, "--dev_contexts", "0", "--run", "whole"]) == 0
    ended, whole = (
        (tmp_path / run / "self_training" / "round-1" / "written.jsonl").read_text() for run in ("r", "whole")
    )
    assert ended == whole


def test_the_common_options_are_those_of_other_commands():
    names = {f"--{name}" for name in CommonArguments.__dataclass_fields__}
    assert names == set(self_training.COMMON_OPTIONS)
