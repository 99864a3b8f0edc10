"""schema.py: look-ups, targets, and the mistakes that a user's file can have."""

import pytest

from common.errors import InputError
from common.schema import load_schema, mistakes, target_name


def write_schema(tmp_path, text):
    path = tmp_path / "my_schema.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_default_schema_has_the_index_order_of_the_released_data():
    assert load_schema().aspects == {
        "languagestyle": ["plain", "lyrical"],
        "attitude": ["pessimistic", "optimistic"],
        "mindchar": ["emotional", "critical"],
    }


def test_default_schema_names_files_that_exist():
    schema = load_schema()
    assert schema.test.is_file()
    assert all(
        a.dialogues.is_file() and a.dev_dialogues.is_file() and a.texts is None for a in schema.attributes
    )


def test_target_is_put_into_schema_order(three):
    target = three.target(["sad", "plain"])
    assert list(target.items()) == [("style", "plain"), ("mood", "sad")]
    assert three.target_indices(target) == [0, -1, 2]
    assert target_name(target) == "plain+sad" and target_name({}) == "(none)"


def test_combinations_count_every_aspect_once_per_attribute_in_index_order(three):
    combinations = three.combinations()
    assert len(combinations) == len({target_name(c) for c in combinations}) == 2 * 2 * 3
    assert [target_name(c) for c in combinations[:4]] == [
        "plain+pessimistic+calm",
        "plain+pessimistic+angry",
        "plain+pessimistic+sad",
        "plain+optimistic+calm",
    ]


def test_schema_of_one_attribute_with_three_aspects(tmp_path):
    schema = load_schema(
        write_schema(tmp_path, "ATTRIBUTES = [{'name': 'mood', 'aspects': ['calm', 'angry', 'sad']}]")
    )
    assert (
        schema.names == ["mood"]
        and schema.test is None
        and schema.nli is None
        and schema.attributes[0].dialogues is None
    )
    assert schema.combinations() == [{"mood": "calm"}, {"mood": "angry"}, {"mood": "sad"}]
    assert schema.target_indices(schema.target(["sad"])) == [2] and schema.target_indices({}) == [-1]


def test_files_are_relative_to_the_schema(tmp_path):
    text = "ATTRIBUTES = [{'name': 'a', 'aspects': ['x', 'y'], 'dialogues': 'sub/d.jsonl', 'texts': '/abs/t.jsonl'}]\nTEST = 't.jsonl'"
    schema = load_schema(write_schema(tmp_path, text))
    assert schema.attributes[0].dialogues == (tmp_path / "sub/d.jsonl").resolve()
    assert str(schema.attributes[0].texts) == "/abs/t.jsonl" and schema.attributes[0].dev_texts is None
    assert schema.test == (tmp_path / "t.jsonl").resolve()


def test_lookups_name_what_there_is(three):
    assert three.attribute("mood").index("sad") == 2 and three.attribute_of("sad").name == "mood"
    with pytest.raises(
        InputError, match=r"unknown attribute 'tone'; the schema has \['style', 'attitude', 'mood'\]"
    ):
        three.attribute("tone")
    with pytest.raises(
        InputError, match=r"unknown aspect 'happy'; the schema has .*'mood': \['calm', 'angry', 'sad'\]"
    ):
        three.attribute_of("happy")
    with pytest.raises(InputError, match=r"unknown aspect 'plain'; mood has \['calm', 'angry', 'sad'\]"):
        three.attribute("mood").index("plain")
    with pytest.raises(InputError, match="one aspect per attribute; 'calm' and 'sad' are both of mood"):
        three.target(["calm", "plain", "sad"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("x", r"ATTRIBUTES\[0\] must be a dict with 'name' and 'aspects', found 'x'"),
        ({"aspects": ["a", "b"]}, r"ATTRIBUTES\[0\]: a name is letters, digits, '_' and '-', found None"),
        ({"name": "a b", "aspects": ["a", "b"]}, "a name is letters, digits"),
        ({"name": "n", "aspects": ["a"]}, "'aspects' must list two or more names, found"),
        ({"name": "n", "aspects": "ab"}, "'aspects' must list two or more names, found 'ab'"),
        ({"name": "n", "aspects": ["a", "b+c"]}, r"an aspect is letters, digits, '_' and '-', found 'b\+c'"),
        ({"name": "n", "aspects": ["a", "a"]}, "aspect 'a' is already one of 'n'"),
        ({"name": "n", "aspects": ["a", "b"], "dialogue": "x"}, "unknown key 'dialogue'; known are"),
        ({"name": "n", "aspects": ["a", "b"], "texts": 3}, "texts must be a file name, found 3"),
    ],
)
def test_a_mistake_is_named(entry, message):
    found = mistakes([entry])
    assert len(found) == 1
    with pytest.raises(InputError, match=message):
        raise InputError(found[0])


@pytest.mark.parametrize("attributes", [None, [], {}, "x"])
def test_attributes_must_be_a_list_of_at_least_one(attributes):
    assert mistakes(attributes) == [
        f"ATTRIBUTES must be a list of at least one attribute, found {attributes!r}"
    ]


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = "ATTRIBUTES = [{'name': 'a', 'aspects': ['x', 'y']}, {'name': 'a', 'aspects': ['y', 'z'], 'file': 1}, {'name': '', 'aspects': []}]"
    path = write_schema(tmp_path, text)
    with pytest.raises(InputError) as error:
        load_schema(path)
    message = str(error.value)
    assert message.startswith(f"{path.resolve()}: ") and "\n" not in message
    for part in (
        "the name is used twice",
        "unknown key 'file'",
        "aspect 'y' is already one of 'a'",
        "found ''",
        "found []",
    ):
        assert part in message


def test_a_good_list_has_no_mistakes():
    assert (
        mistakes(
            [
                {"name": "n-1", "aspects": ("a_1", "B-2", "3")},
                {"name": "m", "aspects": ["c", "d"], "texts": None},
            ]
        )
        == []
    )


def test_schema_files_that_cannot_be_used_are_named(tmp_path):
    with pytest.raises(InputError, match="schema not found: .*nowhere.py"):
        load_schema(tmp_path / "nowhere.py")
    with pytest.raises(InputError, match=r"my_schema.py: cannot be read as Python \(SyntaxError"):
        load_schema(write_schema(tmp_path, "ATTRIBUTES = ["))
    with pytest.raises(InputError, match=r"my_schema.py: cannot be read as Python \(SystemExit: 0"):
        load_schema(write_schema(tmp_path, "raise SystemExit(0)"))
    (tmp_path / "circle.py").symlink_to("circle.py")
    for path in (tmp_path / "circle.py", "~nobody-of-this-name/schema.py"):
        with pytest.raises(InputError, match="is no schema file|schema not found"):
            load_schema(path)
    with pytest.raises(
        InputError, match="my_schema.py: ATTRIBUTES must be a list of at least one attribute, found None"
    ):
        load_schema(write_schema(tmp_path, "TEST = 'x'"))


def test_test_and_nli_must_be_file_names_too(tmp_path):
    with pytest.raises(InputError, match="TEST must be a file name, found 5"):
        load_schema(write_schema(tmp_path, "ATTRIBUTES = [{'name': 'a', 'aspects': ['x', 'y']}]\nTEST = 5"))


def test_a_schema_that_is_no_python_file_is_refused(tmp_path):
    """Python finds no loader for it; that was a traceback."""
    path = tmp_path / "schema.txt"
    path.write_text("ATTRIBUTES = []\n")
    with pytest.raises(InputError, match=r"schema\.txt: expected a Python file, schema\.py"):
        load_schema(str(path))
