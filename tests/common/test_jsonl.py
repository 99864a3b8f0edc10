"""common/jsonl.py: JSON Lines in and out."""

import pytest

from common.errors import InputError
from common.jsonl import read_json, read_jsonl, write_json, write_jsonl


def test_blank_lines_are_skipped_but_counted(write_rows):
    path = write_rows({"a": 1}, "", "  ", {"a": 2})
    assert list(read_jsonl(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": 2})]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'a': 1}", r"rows.jsonl:2: not a line of UTF-8 JSON"),
        ("[1]", "rows.jsonl:2: expected a JSON object, found list"),
    ],
)
def test_bad_line_is_named(write_rows, line, message):
    with pytest.raises(InputError, match=message):
        list(read_jsonl(write_rows({"a": 1}, line)))


def test_other_encodings_are_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"a": "é"}\n'.encode("latin-1"))
    with pytest.raises(InputError, match="latin.jsonl:1: not a line of UTF-8 JSON"):
        list(read_jsonl(path))


def test_missing_and_empty_files_are_named(tmp_path, write_rows):
    with pytest.raises(InputError, match="file not found: .*nowhere.jsonl"):
        list(read_jsonl(tmp_path / "nowhere.jsonl"))
    with pytest.raises(InputError, match="rows.jsonl: the file has no rows"):
        list(read_jsonl(write_rows("", " ")))


def test_rows_come_back_as_written(tmp_path):
    rows = [{"text": "héllo\n日本"}, {"n": [1, None]}]
    write_jsonl(tmp_path / "new" / "out.jsonl", rows)
    assert [row for _, row in read_jsonl(tmp_path / "new" / "out.jsonl")] == rows


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    def rows():
        yield {"a": 2}
        raise KeyboardInterrupt

    write_jsonl(tmp_path / "out.jsonl", [{"a": 1}])
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "out.jsonl", rows())
    assert [row for _, row in read_jsonl(tmp_path / "out.jsonl")] == [{"a": 1}]


def test_json_comes_back_as_written_and_a_missing_file_is_none(tmp_path):
    path = tmp_path / "new" / "some.json"
    assert read_json(path) is None
    write_json(path, {"text": "héllo", "n": [1, None]})
    assert read_json(path) == {"text": "héllo", "n": [1, None]} and [
        p.name for p in path.parent.iterdir()
    ] == ["some.json"]
