"""dataset/dialogues.py: rows of dialogue and context files, their tags and their mistakes."""

from collections import Counter
from dataclasses import replace

import pytest

from common.errors import InputError
from common.schema import load_schema
from dataset.dialogues import (
    Dialogue,
    balanced,
    every_nth,
    parse_tag,
    read_attribute_dialogues,
    read_dialogues,
)


def test_dialogue_and_context_rows(three, write_rows):
    path = write_rows(
        {
            "input": ["one", "three"],
            "output": ["two", "four"],
            "tag": "lyrical",
            "personas": ["kept out"],
            "topic": "bread",
        },
        {"input": [" one \n line ", "three"], "output": ["two"]},
        {"input": ["one"], "output": []},
    )
    assert read_dialogues(path, three) == [
        Dialogue("0", ("one", "two", "three"), "four", {"style": "lyrical"}, "bread"),
        Dialogue("1", ("one line", "two", "three"), None, {}),
        Dialogue("2", ("one",), None, {}),
    ]


@pytest.mark.parametrize(("users", "replies"), [(1, 2), (3, 1), (0, 0)])
def test_turns_must_alternate(three, write_rows, users, replies):
    path = write_rows({"input": ["a"], "output": ["b"]}, {"input": ["a"] * users, "output": ["b"] * replies})
    with pytest.raises(
        InputError,
        match=rf"rows.jsonl:2: {users} user turns in 'input' and {replies} replies in 'output'; expected as many",
    ):
        read_dialogues(path, three)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"output": ["b"]}, "'input' must be a list of strings, found None"),
        ({"input": "a", "output": ["b"]}, "'input' must be a list of strings, found 'a'"),
        ({"input": ["a"], "output": [1]}, r"'output' must be a list of strings, found \[1\]"),
        ({"input": ["a", " "], "output": ["b", "c"]}, r"empty user turn \(number 2 of 'input'\)"),
        ({"input": ["a"], "output": ["\n"]}, r"empty reply \(number 1 of 'output'\)"),
    ],
)
def test_bad_turns_are_named(three, write_rows, row, message):
    with pytest.raises(InputError, match="rows.jsonl:3: " + message):
        read_dialogues(write_rows({"input": ["a"], "output": ["b"]}, "", row), three)


def test_tags_by_name_by_index_and_by_list(three):
    mood = three.attribute("mood")
    assert (
        parse_tag("sad", three, mood, "f:1")
        == parse_tag(2, three, mood, "f:1")
        == parse_tag("sad", three, None, "f:1")
        == {"mood": "sad"}
    )
    assert parse_tag(["lyrical", None, 0], three, None, "f:1") == {"style": "lyrical", "mood": "calm"}
    assert parse_tag([None, None, None], three, None, "f:1") == parse_tag(None, three, mood, "f:1") == {}


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("happy", r"f:7: unknown aspect 'happy'; mood has \['calm', 'angry', 'sad'\]"),
        ("plain", r"f:7: unknown aspect 'plain'; mood has \['calm', 'angry', 'sad'\]"),
        (3, "f:7: aspect index 3 out of range; mood has 3 aspects"),
        (-1, "f:7: aspect index -1 out of range"),
        (True, "f:7: a tag is an aspect's name or index, found True"),
        (1.0, "f:7: a tag is an aspect's name or index, found 1.0"),
        ({}, "f:7: a tag is an aspect's name or index, found {}"),
        ([0, 1], r"f:7: 2 tags; the schema has 3 attributes \(\['style', 'attitude', 'mood'\]\)"),
        (["calm", None, None], r"f:7: unknown aspect 'calm'; style has \['plain', 'lyrical'\]"),
        ([None, None, True], "f:7: a tag is an aspect's name or index, found True"),
    ],
)
def test_bad_tags_are_named(three, tag, message):
    with pytest.raises(InputError, match=message):
        parse_tag(tag, three, three.attribute("mood"), "f:7")


def test_tags_of_a_file_of_no_single_attribute_must_be_names(three):
    with pytest.raises(
        InputError,
        match="f:7: tag 1 is an index, but the file belongs to no single attribute; use aspect names",
    ):
        parse_tag(1, three, None, "f:7")
    with pytest.raises(InputError, match="f:7: unknown aspect 'happy'; the schema has"):
        parse_tag("happy", three, None, "f:7")


def test_training_files_need_a_reply_and_a_tag_in_every_row(three, write_rows):
    mood, good = three.attribute("mood"), {"input": ["a"], "output": ["b"], "tag": 1}
    assert read_dialogues(write_rows(good), three, mood, labelled=True)[0].target == {"mood": "angry"}
    with pytest.raises(InputError, match="rows.jsonl:2: the last user turn has no reply"):
        read_dialogues(write_rows(good, {"input": ["a"], "output": [], "tag": 1}), three, mood, labelled=True)
    with pytest.raises(InputError, match="rows.jsonl:2: no 'tag'"):
        read_dialogues(write_rows(good, {"input": ["a"], "output": ["b"]}), three, mood, labelled=True)


def test_training_row_that_names_only_other_attributes_is_refused(three, write_rows):
    """A list tag may leave out the very attribute that the file is to train; that must not surface later as a KeyError."""
    path = write_rows({"input": ["a"], "output": ["b"], "tag": ["plain", None, None]})
    with pytest.raises(InputError, match="rows.jsonl:1: .*mood"):
        read_dialogues(path, three, three.attribute("mood"), labelled=True)


def test_limit_stops_reading(three, write_rows):
    path = write_rows(
        {"input": ["a"], "output": ["b"]}, {"input": ["a"], "output": ["b"]}, "this line is never reached"
    )
    assert [d.id for d in read_dialogues(path, three, limit=2)] == ["0", "1"]


def test_every_nth_spreads_over_the_list():
    assert every_nth(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert every_nth(list(range(10)), 3) == [0, 3, 6]
    assert every_nth([1, 2], 5) == every_nth([1, 2], None) == [1, 2]


def test_dialogues_of_all_attributes(three, write_rows):
    def located(attribute):
        rows = [{"input": ["a"], "output": [aspect], "tag": aspect} for aspect in attribute.aspects * 2]
        return replace(attribute, dialogues=write_rows(*rows, name=f"{attribute.name}.jsonl"))

    schema = replace(three, attributes=tuple(map(located, three.attributes)))
    found = read_attribute_dialogues(schema, "train", limit=2)
    assert list(found) == schema.names
    assert [d.target for d in found["mood"]] == [{"mood": "calm"}, {"mood": "angry"}]
    assert [len(v) for v in read_attribute_dialogues(schema, "train").values()] == [4, 4, 6]
    with pytest.raises(InputError, match="my_schema.py: attribute 'style' has no 'dev_dialogues'"):
        read_attribute_dialogues(schema, "dev")


def test_bundled_corpus_is_readable_and_balanced():
    schema = load_schema()
    for split in ("train", "dev"):
        for name, dialogues in read_attribute_dialogues(schema, split).items():
            counts = [
                sum(d.target[name] == aspect for d in dialogues) for aspect in schema.attribute(name).aspects
            ]
            assert counts[0] == counts[1] > 0
    assert {tuple(schema.target_indices(d.target)) for d in read_dialogues(schema.test, schema)} == {
        tuple(schema.target_indices(c)) for c in schema.combinations()
    }


@pytest.mark.parametrize("limit", [2, 3, 21, 28, 36, 42, 56, 112, 504, 1008])
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_limit_leaves_as_many_of_every_aspect(limit, split):
    """Every nth row of the bundled files, whose labels alternate, was of one aspect alone at 21, 28, 36, ..., 1008."""
    schema = load_schema()
    for name, dialogues in read_attribute_dialogues(schema, split, limit).items():
        counts = Counter(dialogue.target[name] for dialogue in dialogues)
        assert set(counts) == set(schema.attribute(name).aspects) and len(set(counts.values())) == 1
        assert (
            limit - 1 <= counts.total() <= limit or counts.total() < limit
        )  # dev and test files may have fewer
        assert [int(d.id) for d in dialogues] == sorted(int(d.id) for d in dialogues)


def test_balanced_is_even_in_number_and_over_the_file():
    def label(item):
        return item[0]

    def counted(items, limit):
        return dict(Counter(map(label, balanced(items, limit, label))))

    alternating = [(name, i) for i in range(100) for name in "ab"]
    assert balanced(alternating, 8, label) == [
        ("a", 0),
        ("b", 0),
        ("a", 25),
        ("b", 25),
        ("a", 50),
        ("b", 50),
        ("a", 75),
        ("b", 75),
    ]
    assert counted([("a", i) for i in range(90)] + [("b", i) for i in range(10)], 10) == {"a": 5, "b": 5}
    assert counted([("a", i) for i in range(97)] + [("b", i) for i in range(3)], 10) == {
        "a": 7,
        "b": 3,
    }  # a rare one gives all it has
    assert counted([(name, i) for i in range(9) for name in "abc"], 8) == {"a": 2, "b": 2, "c": 2}
    assert (
        counted(alternating, 1) == {"a": 1}
        and balanced(alternating, None, label) == alternating
        and balanced([], 3, label) == []
    )
