"""Lines and files of JSON that nobody means to write: one line of error each, in little time, never a traceback."""

import json
import time

import pytest

from common.errors import InputError
from common.jsonl import read_json, read_jsonl, write_json
from dataset.synthesis.answers import Malformed, dialogues_in
from dataset.tables import rows_of

ROW = {"input": ["How are you?"], "output": "Well."}
HOSTILE = {
    "deep brackets": "[" * 100_000,
    "deep brackets in a key of no use": '{"input": ["a"], "output": "b", "x": '
    + "[" * 50_000
    + "]" * 50_000
    + "}",
    "deep objects": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "a long integer": '{"input": ["a"], "output": "b", "n": ' + "9" * 10_000 + "}",
    "half of a surrogate pair": '{"input": ["a"], "output": "b\\ud83d"}',
    "the other half": '{"input": ["\\udc00"], "output": "b"}',
    "a surrogate in bytes": '{"input": ["a"], "output": "b\udc00"}',
    "NaN": '{"input": ["a"], "output": NaN}',
    "Infinity": '{"input": ["a"], "output": "b", "n": -Infinity}',
    "no JSON": "{'input': 1}",
    "a number": "12",
    "cut": '{"input": ["a"], "out',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_line_is_refused_with_its_place(text, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes((json.dumps(ROW) + "\n" + text + "\n").encode("utf-8", "surrogatepass"))
    began = time.process_time()
    with pytest.raises(InputError) as caught:
        list(read_jsonl(path))
    assert time.process_time() - began < 2
    assert (
        str(caught.value).startswith(f"{path}:2: ")
        and "\n" not in str(caught.value)
        and len(str(caught.value)) < 400
    )


def test_what_json_can_say_with_escapes_is_read(tmp_path):
    """A whole pair is a character, and so is the text of an escape."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"a": "\\ud83d\\ude00", "b": "\\\\ud83d", "n": 123456789012345678901234567890}\n', encoding="utf-8"
    )
    ((_, row),) = read_jsonl(path)
    assert row == {"a": "\U0001f600", "b": "\\ud83d", "n": 123456789012345678901234567890}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_table_is_refused_too(text, suffix, tmp_path):
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes((json.dumps(ROW) + "\n" + text + "\n").encode("utf-8", "surrogatepass"))
    began = time.process_time()
    try:
        rows = list(rows_of(path)[1])
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert any(isinstance(row, InputError) for _, row in rows)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"\xff\xfe", b'"x"', b"nul", b"[" * 100_000], ids=range(7)
)
def test_a_damaged_file_of_state_is_one_line(content, tmp_path):
    path = tmp_path / "stage.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="stage.json: (not UTF-8 JSON|expected a JSON object)") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    path = tmp_path / "numbers.json"
    write_json(path, {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": (-float("inf"), "x")}})
    assert read_json(path) == {"a": None, "b": [None, 1.5], "c": {"d": [None, "x"]}}


@pytest.mark.parametrize(
    "text",
    [
        " \n" * 20_000,
        "a" * 100_000,
        ": " * 20_000,
        "user " * 20_000,
        "*" * 100_000,
        "{" * 100_000,
        "User:" * 20_000,
    ],
    ids=range(7),
)
def test_an_answer_of_a_model_is_read_or_refused_at_once(text):
    """White space took a time that grew with its cube."""
    began = time.process_time()
    with pytest.raises(Malformed):
        dialogues_in(text)
    assert time.process_time() - began < 2
