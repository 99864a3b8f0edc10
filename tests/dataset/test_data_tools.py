"""check_data, clean_data and download_data: every mistake named, sources untouched, downloads resumed."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.errors import InputError
from scripts import check_data, clean_data, download_data

ROOT = Path(__file__).resolve().parents[2]

REPLIES = {  # ten a side, so that five folds can be made
    "calm": [
        "Let us sit down and look at the {} first.",
        "There is no hurry about the {} today.",
        "Breathe, then take the {} step by step.",
    ],
    "angry": [
        "I have had enough of that {} for good!",
        "Who on earth broke the {} again!",
        "That {} drives me mad, throw it out!",
    ],
}
THINGS = "door kettle garden letter window bus soup fence lamp phone roof boat".split()


def row(aspect, thing, number=0, **other):
    return {
        "input": [f"What shall we do about the {thing} in room {number}?"],
        "output": [REPLIES[aspect][number % 3].format(thing)],
        "tag": aspect,
    } | other


@pytest.fixture
def data(tmp_path):
    """A clean schema of one attribute; returns a function that writes its files and the schema's path."""

    def write(train=None, dev=None, extra=""):
        both = ("calm", "angry")
        files = {
            "train": train or [row(a, t, n) for n, t in enumerate(THINGS) for a in both],
            "dev": dev or [row(a, t, n) for n, t in enumerate(["cellar", "mirror", "carpet"]) for a in both],
        }
        for name, rows in files.items():
            lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        attribute = {
            "name": "temper",
            "aspects": list(both),
            "dialogues": "train.jsonl",
            "dev_dialogues": "dev.jsonl",
        }
        (tmp_path / "my_schema.py").write_text(f"ATTRIBUTES = [{attribute!r}]\n{extra}\n")
        return tmp_path / "my_schema.py"

    return write


def checked(schema, capsys, *options):
    status = check_data.main(["--schema", str(schema), "--json", *options])
    return status, json.loads(capsys.readouterr().out)


def test_the_bundled_corpus_passes_strictly(capsys):
    assert check_data.main(["--strict", "--schema", str(ROOT / "schema.py")]) == 0
    assert capsys.readouterr().out.endswith("0 errors, 0 warnings\n")


def test_the_data_card_shows_the_checker_s_tables(capsys):
    check_data.main(["--schema", str(ROOT / "schema.py")])
    printed = capsys.readouterr().out.splitlines()[:-1]
    card = (ROOT / "dataset" / "README.md").read_text()
    numbers = re.compile(r"\d\.\d\d")  # accuracies differ by a reply or so between versions of scikit-learn
    for line in printed:
        assert not line or any(
            numbers.sub("#", line) == numbers.sub("#", other) for other in card.splitlines()
        ), line


def test_clean_data_has_no_errors(data, capsys):
    status, report = checked(data(), capsys)
    assert status == 0 and report["errors"] == []
    train, dev = report["files"]
    assert (train["rows"], train["aspects"], train["turns"]) == (24, {"angry": 12, "calm": 12}, 1.0) and dev[
        "split"
    ] == "dev"
    assert report["attributes"]["temper"]["bag_of_words"]["dev"] == 1.0
    assert any("a few words may give the aspects away" in warning for warning in report["warnings"])


def test_every_mistake_is_named_with_its_line(data, capsys):
    broken = [
        "{not json",
        row("calm", "door"),
        row("calm", "door") | {"tag": "sad"},
        {"input": ["hi"], "output": [], "tag": "calm"},
        row("angry", "bus"),
        "[1]",
        {"input": [], "output": []},
    ]
    status, report = checked(data(train=broken), capsys)
    assert status == 1
    lines = [re.search(r"train\.jsonl:(\d+)", error)[1] for error in report["errors"][:5]]
    assert lines == ["1", "3", "4", "6", "7"]
    assert "unknown aspect 'sad'" in report["errors"][1] and "no reply" in report["errors"][2]


def test_missing_and_empty_files_and_missing_aspects_are_errors(data, capsys):
    schema = data(train=[row("calm", thing) for thing in THINGS])
    (schema.parent / "dev.jsonl").write_text("\n")
    _, report = checked(schema, capsys)
    assert any("no row of angry" in error for error in report["errors"]) and any(
        "has no rows" in error for error in report["errors"]
    )
    (schema.parent / "dev.jsonl").unlink()
    _, report = checked(schema, capsys)
    assert any("file not found" in error for error in report["errors"])


def test_duplicates_in_a_file_and_leaks_across_files(data, capsys):
    long = "We could take the old kettle to the shop on Monday and ask them about it"
    train = [row(a, t, n, topic=t) for n, t in enumerate(THINGS) for a in ("calm", "angry")]
    train += [
        row("calm", "door", 1),
        {"input": ["First?"], "output": [long + "."], "tag": "calm"},
        {"input": ["Second?"], "output": [long + " then."], "tag": "calm"},
    ]
    train += [row("calm", "door", 1) | {"input": ["Something else?"]}]
    dev = [
        row("angry", "cellar", 1),
        {"input": ["Third?"], "output": [long + "!"], "tag": "calm", "topic": "bus"},
        row("calm", "door") | {"output": ["Fresh words."]},
    ]
    status, report = checked(data(train=train, dev=dev), capsys)
    reply, context = report["duplicates"]["reply"], report["duplicates"]["context"]
    assert reply["exact"] == 1 and reply["near"] == 1
    assert reply["leaks"]["train-dev"] == {"rows": 1, "share": 1 / 3}
    assert context["leaks"]["train-dev"]["rows"] == 1 and context["exact"] == 0
    assert status == 1 and sum("leakage" in error for error in report["errors"]) == 2
    assert all(
        re.search(r"in train, or nearly: \S*dev.jsonl:\d+ and \S*train.jsonl:\d+", error)
        for error in report["errors"]
    )
    assert any("topics are both in train and in dev: bus" in warning for warning in report["warnings"])
    status, report = checked(data(train=train, dev=dev), capsys, "--leakage", "0.5")
    assert status == 0 and sum("leakage" in warning for warning in report["warnings"]) == 3


def test_uneven_aspects_long_replies_and_stock_sentences_are_warnings(data, capsys):
    train = [row("calm", t) | {"output": [f"Yes. I would {t} " + "and so on " * 5]} for t in THINGS] + [
        row("angry", t, n) for n, t in enumerate(THINGS[:6])
    ]
    status, report = checked(data(train=train), capsys)
    text = " ".join(report["warnings"])
    assert (
        status == 0
        and "uneven aspects" in text
        and "differ in length" in text
        and "'yes.' 12 times" in text
        and "temper: calm is given away by " in text
        and "'so' (precision" in text
    )
    assert check_data.main(["--schema", str(data(train=train)), "--strict"]) == 1
    assert "warning: " in capsys.readouterr().out


def test_the_words_that_give_an_aspect_away_are_one_warning(data, capsys):
    train = [row(a, t, n) for n, t in enumerate(THINGS) for a in ("calm", "angry")]
    for number, line in enumerate(train):
        words = "hush slow soft still mild even cool" if line["tag"] == "calm" else "argh no"
        line["output"] = [f"{words} {number}"]
    path = str(data(train=train))
    report = checked(path, capsys)[1]
    lines = [line for line in report["warnings"] if "given away" in line]
    assert (
        len(lines) == 2 and "'hush'" in " ".join(lines) and any("and 2 more words" in line for line in lines)
    )
    check_data.main(["--schema", path])
    assert " and 4 more " in capsys.readouterr().out


def test_text_and_nli_files_are_checked_too(data, capsys, tmp_path):
    (tmp_path / "nli.jsonl").write_text(
        '{"input": "a\\nb\\nc", "output": "d", "label": 1}\n{"input": "a", "output": "d", "labels": 0}\n{"input": "a", "output": "d", "label": 2}\n'
    )
    status, report = checked(data(extra="NLI = 'nli.jsonl'"), capsys)
    assert (
        status == 1
        and report["files"][-1]["aspects"] == {"coherent": 1, "incoherent": 1}
        and report["files"][-1]["turns"] == 1.5
    )
    assert "nli.jsonl:3: 'label' must be 0" in report["errors"][0]


# --- cleaning --------------------------------------------------------------------------------------------------------


def test_cleaning_says_why_and_leaves_the_source_alone(data, capsys, tmp_path):
    train = [row(a, t, n) for n, t in enumerate(THINGS) for a in ("calm", "angry")]
    odd = [
        "{broken", row("calm", "door") | {"output": ["No."]}, row("calm", "x") | {"output": ["word " * 90]},
        row("calm", "bus", 5) | {"input": ["Other words?"]}, row("angry", "cellar", 3) | {"input": ["More words?"]},
        row("calm", "wall") | {"input": ["Who?"], "output": ["I have had enough of the mad broken wall, throw that out for good!"]},
    ]  # fmt: skip
    schema = data(train=train + odd)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
    target = tmp_path / "clean"
    assert (
        clean_data.main(["--schema", str(schema), "--output-dir", str(target), "--min-probability", "0.4"])
        == 0
    )
    assert {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")} == before
    log = [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()]
    reasons = {int(re.search(r"train\.jsonl:(\d+)$", r["row"])[1]): r["reason"] for r in log}
    assert reasons == {25: "format", 26: "length", 27: "length", 28: "duplicate", 29: "leak", 30: "inaudible"}
    assert (target / "train.jsonl").read_text() == "".join(json.dumps(r) + "\n" for r in train)
    assert (target / "dev.jsonl").read_bytes() == before[tmp_path / "dev.jsonl"]
    capsys.readouterr()
    status, report = checked(target / "schema.py", capsys)
    assert status == 0 and report["files"][0]["rows"] == 24


def test_cleaning_with_a_trained_classifier(data, tmp_path, capsys):
    """A classifier that always says "calm" drops every angry reply of train and dev."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from dataset.tokenizers import train_encoder_tokenizer

    folder = tmp_path / "run" / "classifier" / "temper"
    tokenizer = train_encoder_tokenizer([r for a in REPLIES.values() for r in a], 200)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        id2label={0: "calm", 1: "angry"}, label2id={"calm": 0, "angry": 1},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([5.0, -5.0]))
    model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    target = tmp_path / "clean"
    clean_data.main(
        [
            "--schema",
            str(data()),
            "--output-dir",
            str(target),
            "--min-probability",
            "0.5",
            "--run",
            str(tmp_path / "run"),
        ]
    )
    kept = [
        json.loads(line)["tag"]
        for name in ("train", "dev")
        for line in (target / f"{name}.jsonl").read_text().splitlines()
    ]
    assert kept == ["calm"] * 15
    capsys.readouterr()
    _, report = checked(data(), capsys, "--run", str(tmp_path / "run"))
    assert report["attributes"]["temper"]["classifier"] == {"dev": 0.5, "test": None}


def test_cleaning_refuses_a_folder_with_something_in_it(data, tmp_path):
    with pytest.raises(InputError, match="not empty"):
        clean_data.main(["--schema", str(data()), "--output-dir", str(tmp_path)])


def test_cleaning_copies_nli_rows_once(data, tmp_path):
    good = '{"input": "a", "output": "d", "label": 0}'
    (tmp_path / "nli.jsonl").write_text(f"{good}\n{good}\nbroken\n")
    clean_data.main(
        ["--schema", str(data(extra="NLI = 'nli.jsonl'")), "--output-dir", str(tmp_path / "clean")]
    )
    assert (tmp_path / "clean" / "nli.jsonl").read_text() == good + "\n"
    reasons = [
        json.loads(line)["reason"] for line in (tmp_path / "clean" / "log.jsonl").read_text().splitlines()
    ]
    assert reasons == ["duplicate", "format"]


# --- downloading, from a folder served like the hub's ----------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The hub's data set interface over a local folder, with its log and a switch to cut transfers short."""

    def __init__(self, folder: Path):
        self.folder, self.cut_after, self.log = folder, None, []
        super().__init__(("127.0.0.1", 0), HubHandler)


class HubHandler(http.server.BaseHTTPRequestHandler):
    """Answers what `huggingface_hub` asks: the data set's commit, files by HEAD, GET, and GET from an offset on."""

    def log_message(self, *args):
        """Nothing on the terminal."""

    def do_HEAD(self):
        """A file's size, ETag and commit."""
        self.answer(body=False)

    def do_GET(self):
        """A file, or the data set's description."""
        if self.path.startswith("/api/datasets/lu-vae/Miracle-Conversation"):
            content = json.dumps(
                {"id": "lu-vae/Miracle-Conversation", "sha": COMMIT, "siblings": []}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        else:
            self.answer(body=True)

    def answer(self, body: bool):
        path = self.server.folder / self.path.rsplit("/", 1)[1].split("?")[0]
        if not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        content = path.read_bytes()
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.send_response(206 if start else 200)
        for name, value in (
            ("ETag", f'"{path.name}-1"'),
            ("X-Repo-Commit", COMMIT),
            ("Accept-Ranges", "bytes"),
        ):
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if not body:
            return None
        self.server.log.append((path.name, start))
        if self.server.cut_after is not None and path.name == "nli.jsonl":
            self.wfile.write(content[start : start + self.server.cut_after])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        self.wfile.write(content[start:])
        return None


@pytest.fixture
def hub(tmp_path):
    """A running `Hub` whose folder holds the release's files, filled from the bundled corpus."""
    folder = tmp_path / "release"
    folder.mkdir()
    corpus = ROOT / "dataset" / "corpus"
    for letter, name in (("l", "languagestyle"), ("a", "attitude"), ("m", "mindchar")):
        for prefix in ("", "dev_"):
            rows = [
                json.loads(line)
                for line in (corpus / f"{prefix}dialogue_{name}.jsonl").read_text().splitlines()
            ]
            (folder / f"{prefix}dialogue_{letter}.raw.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in rows)
            )
            texts = [{"text": r["output"][-1], "label": r["tag"]} for r in rows]
            (folder / f"{prefix}text_{letter}.raw.jsonl").write_text(
                "".join(json.dumps(r) + "\n" for r in texts)
            )
    (folder / "test.raw.jsonl").write_bytes((corpus / "test.jsonl").read_bytes())
    pairs = [
        {"input": f"Where is the {t}?", "output": f"The {t} is here.", "label": n % 2}
        for n, t in enumerate(THINGS * 20)
    ]
    (folder / "nli.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pairs))
    server = Hub(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def download(server, tmp_path, *options):
    """Run the script to its end."""
    process = start_download(server, tmp_path, *options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start_download(server, tmp_path, *options):
    """Start the script against a server; files go beside a copy of schema_paper.py."""
    schema = tmp_path / "schema_paper.py"
    schema.write_text((ROOT / "schema_paper.py").read_text())
    address = f"http://127.0.0.1:{server.server_address[1]}" if server else "http://127.0.0.1:9"
    environment = os.environ | {
        "HF_ENDPOINT": address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    words = [sys.executable, str(ROOT / "scripts" / "download_data.py"), "--schema", str(schema), *options]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_download_says_the_cost_fetches_checks_and_does_it_once(hub, tmp_path):
    done = download(hub, tmp_path, "--dry-run")
    total = sum(path.stat().st_size for path in hub.folder.iterdir())
    assert done.returncode == 0 and f"to fetch: {total / 1e6:.1f} MB" in done.stdout and hub.log == []
    done = download(hub, tmp_path)
    assert (
        done.returncode in (0, 1) and "14 files, 0 already here" in done.stdout and "errors," in done.stdout
    ), done.stderr
    for path in hub.folder.iterdir():
        assert (tmp_path / "data" / "miracle" / path.name).read_bytes() == path.read_bytes()
    hub.log.clear()
    done = download(hub, tmp_path, "--no-check")
    assert "14 already here" in done.stdout and "to fetch: 0.0 MB" in done.stdout and hub.log == []


def test_an_interrupted_download_goes_on_where_it_was(hub, tmp_path):
    """The hub's library writes in pieces of 10 MB; what has not filled one is fetched again."""
    hub.cut_after = 12_000_000
    hub.folder.joinpath("nli.jsonl").write_text(
        '{"input": "a b c", "output": "d", "label": 0}\n' * 600_000
    )  # 27 MB
    process = start_download(hub, tmp_path)
    deadline = time.monotonic() + 60
    while ("nli.jsonl", 0) not in hub.log and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.wait()
    hub.cut_after = None
    done = download(hub, tmp_path, "--no-check")
    starts = [start for name, start in hub.log if name == "nli.jsonl"]
    assert done.returncode == 0 and starts[0] == 0 and starts[-1] > 0, (starts, done.stderr)
    assert (tmp_path / "data" / "miracle" / "nli.jsonl").read_bytes() == (
        hub.folder / "nli.jsonl"
    ).read_bytes()
    assert len([name for name, _ in hub.log if name == "dialogue_l.raw.jsonl"]) == 1


def test_a_file_that_the_hub_lacks_is_named(hub, tmp_path):
    (hub.folder / "test.raw.jsonl").unlink()
    done = download(hub, tmp_path)
    assert (
        done.returncode == 2
        and "test.raw.jsonl cannot be had from the hub (status 404)" in done.stderr
        and len(done.stderr.splitlines()) == 1
    )


def test_without_a_network_one_line_says_so(tmp_path):
    done = download(None, tmp_path)
    assert (
        done.returncode == 2
        and len(done.stderr.splitlines()) == 1
        and "the hub cannot be reached" in done.stderr
    )


def test_files_in_several_folders_are_refused(data, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="2 folders"):
        download_data.main(["--schema", str(data(extra="TEST = 'other/test.jsonl'"))])
