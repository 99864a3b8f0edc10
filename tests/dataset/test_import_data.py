"""scripts/import_data.py, dataset/formats.py, dataset/tables.py: formats that people have, and what the reader says of them."""

import bz2
import gzip
import json
import lzma

import pytest

from common.errors import InputError
from common.schema import load_schema
from dataset.dialogues import read_dialogues
from dataset.formats import exchanges, kind_of, taken
from dataset.tables import rows_of
from dataset.texts import read_text_file
from scripts import import_data

SCHEMA = load_schema()
ATTITUDE = SCHEMA.attribute("attitude")
EXPECTED = {"input": ["Will it rain?", "And then?"], "output": ["No, never.", "Then we walk."]}
SHAREGPT = {
    "id": "x",
    "conversations": [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Will it rain?"},
        {"from": "gpt", "value": "No, never."},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": "Then we walk."},
    ],
}
MESSAGES = {
    "messages": [
        {
            "role": {"human": "user", "gpt": "assistant", "system": "system"}[turn["from"]],
            "content": turn["value"],
        }
        for turn in SHAREGPT["conversations"]
    ]
}
ALPACA = {
    "instruction": "And then?",
    "input": "",
    "output": "Then we walk.",
    "history": [["Will it rain?", "No, never."]],
}


def tags(row, tag="optimistic"):
    return row | {"label": tag}


@pytest.fixture
def bring(tmp_path, capsys):
    """Runs the command; returns its status, its output, and the rows written."""

    def run(*files, options=(), output="mine.jsonl"):
        status = import_data.main(
            [*map(str, files), "--output", str(tmp_path / output), "--overwrite", *options]
        )
        said = capsys.readouterr()
        return (
            status,
            said.out + said.err,
            [json.loads(line) for line in (tmp_path / output).read_text().splitlines()],
        )

    return run


@pytest.fixture
def file(tmp_path):
    """Writes a file: bytes, a text, or rows as JSON Lines."""

    def write(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (SHAREGPT, "ShareGPT"),
        (MESSAGES, "messages"),
        (ALPACA, "Alpaca"),
        ({"dialog": ["Will it rain?", "No, never.", "And then?", "Then we walk."]}, "turns"),
        ({"conversation": [["Will it rain?", "No, never."], ["And then?", "Then we walk."]]}, "turns"),
        ({"conversation": [{"speaker": "USER", "text": "Will it rain?"}, {"speaker": "Bot", "text": "No, never."}, {"speaker": "USER", "text": "And"}, {"speaker": "user", "text": "then?"}, {"speaker": "bot", "text": [{"type": "text", "text": "Then we walk."}]}]}, "messages"),
        ({"messages": json.dumps(MESSAGES["messages"])}, "messages"),  # a table's column
        (EXPECTED, "ours"),
    ],
)  # fmt: skip
def test_a_format_is_recognised_and_becomes_ours(row, kind, bring, file):
    status, said, rows = bring(file("theirs.jsonl", [tags(row), tags(row, "PESSIMISTIC")]))
    assert kind_of(row) == kind and status == 0
    assert rows == [EXPECTED | {"tag": "optimistic"}, EXPECTED | {"tag": "pessimistic"}]
    assert (
        f"JSON Lines, 2 rows taken, 0 not\n  2 x {'our own format' if kind == 'ours' else kind}" in said
        and "labels from 'label': 2 rows" in said
    )
    if "system" in str(row):
        assert "left out in 2 rows: system messages" in said
    path = file("again.jsonl", rows)
    assert [d.target for d in read_dialogues(path, SCHEMA, ATTITUDE, labelled=True)] == [
        {"attitude": "optimistic"},
        {"attitude": "pessimistic"},
    ]


@pytest.mark.parametrize(
    ("row", "users", "replies"),
    [
        ({"prompt": "Will it rain?", "completion": "No."}, ["Will it rain?"], ["No."]),
        ({"Question": "Will it rain?", "Answer": "No."}, ["Will it rain?"], ["No."]),
        ({"input": "Will it rain?", "output": "No."}, ["Will it rain?"], ["No."]),
        ({"instruction": "Say it.", "input": "Rain?", "response": "No."}, ["Say it. Rain?"], ["No."]),
        ({"conversations": [{"from": "gpt", "value": "Hi."}, {"from": "human", "value": "Rain?"}, {"from": "gpt", "value": "No."}, {"from": "human", "value": "Oh."}]}, ["Rain?"], ["No."]),
    ],
)  # fmt: skip
def test_pairs_and_ends_that_do_not_fit(row, users, replies, bring, file):
    status, said, rows = bring(file("theirs.jsonl", [row]), options=["--tag", "lyrical"])
    assert status == 0 and rows == [{"input": users, "output": replies, "tag": "lyrical"}]
    if "conversations" in row:
        assert "first turns that are replies" in said and "last turns without a reply" in said


def table(delimiter=","):
    return (
        delimiter.join(["prompt", "response", "sentiment"])
        + "\r\n"
        + f'"Will it{delimiter} or\nnot?"{delimiter}No.{delimiter}negative\r\n\r\nRain?{delimiter}Yes!{delimiter}Positive\r\n'
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables(delimiter, encoding, bring, file):
    path = file("theirs.csv", table(delimiter).encode(encoding))
    status, said, rows = bring(path, options=["--map", "positive=optimistic,negative=pessimistic"])
    words = "Will it or not?" if delimiter == "\t" else f"Will it{delimiter} or not?"
    assert status == 0 and rows == [
        {"input": [words], "output": ["No."], "tag": "pessimistic"},
        {"input": ["Rain?"], "output": ["Yes!"], "tag": "optimistic"},
    ]
    assert (
        "TSV" if delimiter == "\t" else "CSV"
    ) in said and "user from 'prompt', reply from 'response'" in said


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files(pack, bring, file):
    assert bring(file("theirs.csv.x", pack(table().encode())), options=["--tag", "plain"])[2][1] == {
        "input": ["Rain?"],
        "output": ["Yes!"],
        "tag": "plain",
    }


def test_parquet(bring, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.Table.from_pylist([tags(SHAREGPT), tags(SHAREGPT, "nobody")]), tmp_path / "theirs.parquet"
    )
    status, said, rows = bring(tmp_path / "theirs.parquet")
    assert (
        status == 1
        and rows == [EXPECTED | {"tag": "optimistic"}]
        and "theirs.parquet (row 2): 'label': 'nobody' is no aspect of" in said
    )


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"version": 1, "data": rows}])
def test_json_files_and_the_lines_of_their_items(wrap, bring, file):
    rows = [tags(SHAREGPT), tags(MESSAGES), {"conversations": [{"from": "narrator", "value": "It rains."}]}]
    status, said, written = bring(file("theirs.json", json.dumps(wrap(rows), indent=1)))
    assert status == 1 and len(written) == 2
    assert "is said by 'narrator'" in said
    if wrap(rows) is not rows:
        assert "theirs.json (data[2]): turn 1" in said
    else:
        text = json.dumps(rows, indent=1).splitlines()
        number = int(said.split("theirs.json:")[2].split(":")[0])
        assert (
            text[number - 1] == " {"
            and "conversations" in text[number]
            and "narrator" in "".join(text[number:])
        )
    assert bring(file("one.json", json.dumps(tags(SHAREGPT), indent=1)))[2] == [
        EXPECTED | {"tag": "optimistic"}
    ]


def test_texts_with_labels(bring, file, tmp_path):
    path = file("theirs.csv", "text,label\nAll is lost.,0\nAll is well.,1\n,1\n")
    status, said, rows = bring(path, options=["--attribute", "attitude"])
    assert status == 1 and rows == [
        {"text": "All is lost.", "label": "pessimistic"},
        {"text": "All is well.", "label": "optimistic"},
    ]
    assert read_text_file(tmp_path / "mine.jsonl", SCHEMA, ATTITUDE) == [
        ("All is lost.", 0),
        ("All is well.", 1),
    ]
    assert 'name it as "texts"' in said and "theirs.csv:4: 'text' must be a text that is not empty" in said


def test_contexts_and_named_keys(bring, file):
    status, _, rows = bring(
        file("theirs.jsonl", [SHAREGPT, {"messages": [{"role": "user", "content": "Rain?"}]}]),
        options=["--contexts"],
    )
    assert status == 0 and rows == [
        {"input": EXPECTED["input"], "output": EXPECTED["output"][:1]},
        {"input": ["Rain?"], "output": []},
    ]
    status, said, rows = bring(
        file("theirs.jsonl", [{"Frage": "Regen?", "Antwort": "Nein.", "topic": "rain"}]),
        options=["--user-from", "Frage", "--reply-from", "Antwort"],
    )
    assert (
        rows == [{"input": ["Regen?"], "output": ["Nein."], "topic": "rain"}]
        and "1 rows have no label; training needs one" in said
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [{"role": "tool", "content": "x"}]}, "turn 1 of 'messages' is said by 'tool'"),
        ({"messages": [{"role": "user", "content": None}]}, "'turn 1' must be a text that is not empty"),
        ({"messages": [{"content": "x"}]}, "turn 1 of 'messages' has no speaker or no text"),
        (
            {"messages": [{"role": "user", "content": "x"}]},
            "no user turn with a reply in it; bare contexts are taken with --contexts",
        ),
        ({"instruction": "Say it."}, "an 'instruction' without an 'output'"),
        ({"instruction": "Say it.", "output": "x", "history": "y"}, "'history' must be a list"),
        ({"prompt": "x", "response": ""}, "'turn 2' must be a text that is not empty"),
        ({"Frage": "x"}, "no format that is known; found the keys ['Frage']"),
        (
            {"prompt": "x", "response": "y", "label": 1},
            "1 is no aspect of .*; a number needs --attribute; name what it is with --map 1=<aspect>",
        ),
        ({"prompt": "x", "response": "y", "label": "happy"}, "'label': 'happy' is no aspect of"),
        ({"text": "x"}, "a text without a label"),
    ],
)
def test_what_cannot_be_taken_is_named_with_file_and_line(row, says, bring, file, tmp_path):
    import re

    good = {"text": "x y", "label": "plain"} if "text" in row else tags(SHAREGPT)
    status, said, rows = bring(file("theirs.jsonl", [good, row]))
    assert (
        status == 1
        and len(rows) == 1
        and re.search(
            rf"not taken: {re.escape(str(tmp_path))}/theirs.jsonl:2: .*"
            + (says if ".*" in says else re.escape(says)),
            said,
        )
    )
    with pytest.raises(InputError, match="nothing is written: 1 rows cannot be taken; the first: "):
        import_data.main(
            [str(tmp_path / "theirs.jsonl"), "--output", str(tmp_path / "new.jsonl"), "--strict"]
        )
    assert not (tmp_path / "new.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", "prompt,response\na,b\nc,d,e\n", ":3: 3 fields; the header has 2"),
        ("x.csv", 'prompt,response\n"a,b\n', ":2: not CSV"),
        ("x.csv", "prompt,prompt\na,b\n", ":1: a column's name stands twice"),
        (
            "x.csv",
            "prompt,response\na,caf\u00e9\n".encode("latin-1"),
            ":2: not UTF-8 text (byte 0xe9); save it as UTF-8",
        ),
        ("x.json", '[{"prompt": "a", "response": "b"},\n {"b": }]', ":2: not JSON"),
        ("x.json", '[{"prompt": "a", "response": "b"},\n 5]', ":2: expected an object, found int"),
        ("x.jsonl", '{"prompt": "a", "response": "b"}\n{"prompt"\n', ":2: not a line of JSON"),
        ("x.txt", "hello\n", ":1: neither JSON nor a table"),
        ("x.csv", "", ": the file has no rows"),
        ("x.xlsx", b"PK\x03\x04abc", ": a zip archive (or an Excel file)"),
        ("x.gz", b"\x1f\x8babc", ": broken gzip file"),
        ("x.parquet", b"PAR1abcPAR1", ": broken Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(name, content, says, file, tmp_path):
    path = file(name, content)
    with pytest.raises(InputError) as error:
        import_data.main([str(path), "--output", str(tmp_path / "mine.jsonl"), "--strict"])
    assert f"{path}{says}" in str(error.value) and "\n" not in str(error.value)


def test_nothing_is_overwritten_unasked(file, tmp_path):
    path = file("theirs.jsonl", [tags(SHAREGPT)])
    with pytest.raises(InputError, match="is there already"):
        import_data.main([str(path), "--output", str(path)])
    with pytest.raises(InputError, match="is what is to be read"):
        import_data.main([str(path), "--output", str(path), "--overwrite"])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.jsonl", [SHAREGPT], "this looks like ShareGPT row"),
        ("x.jsonl", [MESSAGES], "this looks like 'messages' row"),
        ("x.jsonl", [ALPACA], "this looks like Alpaca row"),
        ("x.jsonl", [{"prompt": "a", "response": "b"}], "this looks like a prompt-and-response row"),
        ("x.json", json.dumps([SHAREGPT], indent=1), "this looks like one JSON list over several lines"),
        ("x.json", json.dumps([SHAREGPT]), "this looks like one JSON list"),
        (
            "x.json",
            json.dumps({"data": [SHAREGPT]}, indent=1),
            "this looks like one JSON object over several lines",
        ),
        ("x.csv", table(), "this looks like CSV"),
        ("x.csv", table(";"), "this looks like CSV"),
        ("x.parquet", b"PAR1abc", "a Parquet file, not JSON Lines"),
        ("x.xlsx", b"PK\x03\x04abc", "a zip archive or Excel file, not JSON Lines"),
    ],
)
def test_the_reader_says_which_format_a_file_looks_like_and_how_to_bring_it_in(name, content, says, file):
    path = file(name, content)
    for read in (lambda: read_dialogues(path, SCHEMA), lambda: read_text_file(path, SCHEMA, ATTITUDE)):
        with pytest.raises(InputError) as error:
            read()
        assert says in str(
            error.value
        ) and f"bring it in with: bash scripts/import_data.sh {path} --output <file.jsonl>" in str(
            error.value
        )


def test_the_reader_reads_gzip_itself(file):
    row = EXPECTED | {"tag": "optimistic"}
    path = file("x.jsonl.gz", gzip.compress((json.dumps(row) + "\n").encode()))
    assert read_dialogues(path, SCHEMA, ATTITUDE)[0].response == "Then we walk."
    with pytest.raises(InputError, match="broken gzip file"):
        read_dialogues(file("y.jsonl.gz", path.read_bytes()[:-9]), SCHEMA)


def test_exchanges_and_rows_from_python():
    assert exchanges([("user", "a"), ("user", "b"), ("reply", "c")], "x")[:2] == (["a b"], ["c"])
    assert taken({"q": "a", "r": "b"}, "x", user="q", reply="r").turns == [("user", "a"), ("reply", "b")]


def test_one_broken_line_does_not_end_the_file(bring, file):
    rows = json.dumps(tags(SHAREGPT)) + "\n{broken\n[]\n" + json.dumps(tags(SHAREGPT)) + "\n"
    status, said, written = bring(file("theirs.jsonl", rows))
    assert (
        status == 1
        and len(written) == 2
        and "theirs.jsonl:2: not a line of JSON" in said
        and "theirs.jsonl:3: expected an object" in said
    )


def test_rows_know_where_they_stand(file):
    kind, rows = rows_of(file("x.csv", table()))
    assert kind == "CSV" and [where.rsplit(":", 1)[1] for where, _ in rows] == ["2", "5"]
