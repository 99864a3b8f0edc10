"""dataset/texts.py: labelled texts for the classifiers."""

from dataclasses import replace

import pytest

from common.errors import InputError
from dataset.texts import read_text_file, read_texts


@pytest.fixture
def mood(three):
    return three.attribute("mood")


def test_text_rows_with_label_or_labels_by_name_or_index(three, mood, write_rows):
    path = write_rows(
        {"text": " so \n it is ", "label": "sad"}, {"text": "b", "labels": 1}, {"text": "c", "labels": "calm"}
    )
    assert read_text_file(path, three, mood) == [("so it is", 2), ("b", 1), ("c", 0)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "sad"}, "'text' must be a non-empty string, found None"),
        ({"text": " ", "label": "sad"}, "'text' must be a non-empty string, found ' '"),
        ({"text": "a"}, r"no 'label'; mood has \['calm', 'angry', 'sad'\]"),
        ({"text": "a", "label": "plain"}, r"unknown aspect 'plain'; mood has \['calm', 'angry', 'sad'\]"),
        ({"text": "a", "label": True}, "found True"),
        ({"text": "a", "label": 7}, "aspect index 7 out of range"),
        ({"text": "a", "label": ["plain", None, None]}, "mood"),  # a list may leave the attribute out
    ],
)
def test_bad_text_rows_are_named(three, mood, write_rows, row, message):
    with pytest.raises(InputError, match="rows.jsonl:2: .*" + message):
        read_text_file(write_rows({"text": "a", "label": "sad"}, row), three, mood)


def test_text_file_comes_before_the_replies_of_the_dialogues(three, mood, write_rows):
    dialogues = write_rows(
        *({"input": ["q"], "output": [f"reply {n}"], "tag": n} for n in range(3)), name="d.jsonl"
    )
    texts = write_rows(*({"text": f"text {n}", "label": n} for n in range(3)), name="t.jsonl")
    both = replace(mood, dialogues=dialogues, texts=texts, dev_dialogues=dialogues)
    assert read_texts(three, both, "train") == [("text 0", 0), ("text 1", 1), ("text 2", 2)]
    assert read_texts(three, both, "dev") == [("reply 0", 0), ("reply 1", 1), ("reply 2", 2)]
    assert read_texts(three, both, "train", limit=1) == [("text 0", 0)]
    assert read_texts(three, both, "dev", limit=2) == [("reply 0", 0), ("reply 1", 1)]


def test_attribute_without_any_file_is_named(three, mood):
    with pytest.raises(
        InputError, match="my_schema.py: attribute 'mood' has neither 'dev_texts' nor 'dev_dialogues'"
    ):
        read_texts(three, mood, "dev")
