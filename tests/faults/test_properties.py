"""What holds for every input of a kind, looked for by hypothesis."""

import json
import time

import pytest
from faults.test_fuzz import GENERATION, SCHEMA, STYLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.jsonl import json_value, read_jsonl, write_jsonl
from common.options import CommonArguments
from common.schema import mistakes
from common.shapes import Fields, Items, Maybe, Number, Values, misfit, too_much
from common.yaml_files import read_yaml
from dataset.dialogues import Dialogue, parse_dialogue, parse_tag
from dataset.nli import CORRUPTIONS, Pair, make_pairs, parse_pair
from dataset.synthesis.answers import LONGEST_ANSWER, Malformed, Refusal, read_answer, without_reasoning
from dataset.synthesis.journal import Answer, Journal
from dataset.synthesis.tasks import Persona
from scoring.generations import checked
from scoring.text_metrics import has_repetition

QUICK = settings(
    max_examples=50,
    deadline=2000,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)  # without lone surrogates
WORDS = TEXT.filter(lambda text: text.strip())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PERSONA = Persona({"style": "lyrical"}, {"lyrical": "Sings."})


@QUICK
@given(
    rows=st.lists(
        st.dictionaries(TEXT, JSON.filter(lambda v: "\\ud" not in json.dumps(v)), max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_is_read_again(rows, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert [row for _, row in read_jsonl(tmp_path / "rows.jsonl")] == rows


@QUICK
@given(content=st.binary(max_size=200))
def test_any_bytes_are_rows_or_one_line(content, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    try:
        assert all(isinstance(row, dict) for _, row in read_jsonl(path))
    except InputError as error:
        assert str(error).startswith(str(path)) and len(str(error)) < 1000


@QUICK
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_a_dialogue_keeps_its_words(turns):
    """White space is joined, and nothing else is lost."""
    row = {"input": [user for user, _ in turns], "output": [reply for _, reply in turns], "tag": 1}
    dialogue = parse_dialogue(row, SCHEMA, "x:1", "0", STYLE)
    assert [*dialogue.context, dialogue.response] == [" ".join(t.split()) for pair in turns for t in pair]


@QUICK
@given(JSON, JSON, JSON)
def test_any_value_in_a_row_is_taken_or_refused(one, other, third):
    rows = (
        lambda: parse_dialogue({"input": one, "output": other, "tag": third}, SCHEMA, "x:1", "0", STYLE),
        lambda: parse_tag(one, SCHEMA, None, "x:1"),
        lambda: parse_pair({"input": "a", "output": one, "label": other}, "x:1"),
        lambda: checked(
            GENERATION | {"predicted": one, "probabilities": other, "nats": third}, SCHEMA, "x:1", 0
        ),
        lambda: checked(GENERATION | {"context": one, "target": other, "reference": third}, SCHEMA, "x:1", 0),
    )
    for read in rows:
        try:
            read()
        except InputError as error:
            assert str(error).startswith("x:1: ")


@QUICK
@given(
    st.lists(st.fixed_dictionaries({"name": JSON, "aspects": JSON, "descriptions": JSON}) | JSON, max_size=3)
    | JSON
)
def test_any_attributes_are_right_or_said_to_be_wrong(attributes):
    assert all(isinstance(line, str) and "\n" not in line for line in mistakes(attributes))


@QUICK
@given(JSON)
def test_shapes_take_any_value(value):
    shape = Fields(
        {"a": Items(Number(0, 1), 2), "b": Values(str), "c": Maybe(Fields({"d": bool}, ("d",)))}, ("a",)
    )
    wrong = misfit(value, shape)
    assert wrong is None or isinstance(wrong, str)
    if not isinstance(value, dict) or value.get("a") is None:
        assert wrong


@QUICK
@given(st.text(max_size=60), st.text(max_size=60))
def test_an_answer_in_the_journal_is_read_again(text, reason):
    """Whatever the model wrote, halves of surrogate pairs included: it was paid for."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        journal.write_answer(
            Answer(
                "k",
                0,
                text.encode("utf-8", "replace").decode(),
                refusal=reason.encode("utf-8", "replace").decode(),
            )
        )
        before = journal.answers
        journal.close()
        again = Journal(Path(folder) / "journal.jsonl")
        again.close()
        assert again.answers == before


@QUICK
@given(
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<|channel|>final",
                "<|message|>",
                "{",
                "[",
                '"',
                "user: a b",
                "\n",
                " ",
                "\u2028",
                "reply: c d e",
            ]
        ),
        max_size=30,
    )
)
def test_an_answer_of_any_marks_is_read_or_refused(marks):
    try:
        read_answer("".join(marks), PERSONA, 1)
    except (Malformed, Refusal) as error:
        assert "\n" not in str(error)


MARKS = [
    "<think>",
    "</think>",
    "<|channel|>final",
    "<|channel|>final<|message|>",
    '{"a": [',
    '["' + "x" * 90,
    " \n",
    "User:",
    "I am sorry, ",
    "I'm sorry, but i ",
]


@pytest.mark.parametrize("mark", MARKS)
def test_the_time_for_an_answer_grows_with_its_length(mark):
    """Marks without a partner took a time that grew with the square of the length."""
    began = time.process_time()
    for text in (mark * (LONGEST_ANSWER // len(mark)), mark * LONGEST_ANSWER):
        with pytest.raises((Malformed, Refusal)):
            read_answer(text, PERSONA, 1)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think> b", "b"),
        ("a <think>b</think> c <think>d</think> e", "a  c  e"),
        ("a </think> b", "b"),
        ("a <think> b", "a"),
        ("a </think> b </think> c <think> d", "c"),
        ("<think>a<think>b</think>c", "c"),
        ("<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b<|return|>c", "b"),
        ("<|channel|>final a", "<|channel|>final a"),
    ],
)
def test_reasoning_is_left_out_as_before(text, left):
    assert without_reasoning(text) == left


@QUICK
@given(TEXT, st.integers(0, 5))
def test_any_reply_can_be_corrupted(reply, seed):
    import random

    for corrupt in CORRUPTIONS.values():
        assert isinstance(corrupt(reply, random.Random(seed)), str)


def test_a_coherent_pair_with_an_empty_reply_makes_pairs():
    dialogues = [Dialogue(str(n), (f"question {n}?",), ("", "So.")[n % 2], {}) for n in range(6)]
    assert all(isinstance(pair, Pair) for pair in make_pairs(dialogues, 10, 0))


@pytest.mark.parametrize("limit", [0, -1])
def test_no_rows_at_all_is_a_mistake(limit):
    with pytest.raises(InputError, match=f"limit: expected a number of at least 1, found {limit}"):
        CommonArguments(limit=limit)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: &a [x, x]\nb: &b [*a, *a]\n" + b"".join(b"c%d: &c%d [*%s, *%s]\n" % (n, n, p, p) for n, p in zip(range(40), [b"b", *(b"c%d" % n for n in range(40))])), "over 100000 values"),
        (b"a: &a [*a]", "nested too deep|not YAML"),
        (b"[" * 50_000, "nested too deep|not YAML"),
        (b"a: 2001-99-99", "not YAML"),
        (b"a: \xff", "not UTF-8 text"),
        (b"a: " + b"9" * 5000, "not YAML"),
        (b"#" * 1_100_000, "1.1 MB; a YAML file of options has at most 1"),
    ],
    ids=range(7),
)  # fmt: skip
def test_yaml_that_is_no_file_of_options(content, said, tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content)
    began = time.process_time()
    with pytest.raises(InputError, match=said) as caught:
        read_yaml(path)
    assert time.process_time() - began < 2 and "\n" not in str(caught.value)


def test_depth_is_measured_by_what_stands_in_one_another():
    value = json_value("[" * 60 + "]" * 60)
    assert too_much(value, 60) is None and too_much(value, 58) and json_value(json.dumps([[[]]] * 500))
    with pytest.raises(ValueError, match="nested too deep"):
        json_value("[" * 70 + "]" * 70)


def test_a_reply_of_a_million_letters_is_measured_at_once():
    began = time.process_time()
    has_repetition("x" * 1_000_000)
    assert time.process_time() - began < 2
