"""Errors of the system and damaged checkpoints: one line each, with the file, what is wrong and what to run."""

import errno
import importlib
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.entry import is_user_error, message_for
from common.errors import InputError
from common.jsonl import write_json, write_jsonl
from common.parts import Parts
from common.system_errors import REMEDIES, system_mistake
from generation.loading import load_cvae, tokenizers_of
from model.bases import BaseNotFound, load_config, load_encoder, load_tokenizer, record_of
from scoring.evaluators import Evaluator

ROOT = Path(__file__).resolve().parents[2]


def _json(change):
    """Damage that keeps the file JSON."""

    def damage(content: bytes) -> bytes:
        return json.dumps(change(json.loads(content))).encode()

    return damage


def _header(change):
    """Damage to the header of a safetensors file."""

    def damage(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
        return struct.pack("<Q", len(header)) + header + content[8 + length :]

    return damage


def _first(change):
    """Damage to the first tensor's entry of a header."""
    return _header(
        lambda h: {
            k: (v | change if k == next(n for n in h if n != "__metadata__") else v) for k, v in h.items()
        }
    )


ANY_JSON = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "binary": lambda content: bytes(range(256)),
    "a list": lambda content: b"[]",
    "deep": lambda content: b'{"a":' * 5000,
    "zeros": lambda content: bytes(len(content)),
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "NaN": lambda content: content.rstrip()[:-1] + b', "x": {"y": [1, NaN]}}',
    "a number too large": lambda content: content.rstrip()[:-1] + b', "x": -1e999}',
}
WEIGHTS = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:20],
    "cut in the numbers": lambda content: content[:-5],
    "longer": lambda content: content + b"\x00" * 9,
    "a header of 2**60 bytes": lambda content: struct.pack("<Q", 1 << 60) + content[8:],
    "a header that is no JSON": lambda content: content[:8] + b"x" + content[9:],
    "a type that is none": _first({"dtype": "F7"}),
    "another shape": _first({"shape": [3, 5, 7]}),
    "negative places": _first({"data_offsets": [-4, 8]}),
    "an error page": lambda content: b"<html>not found</html>",
    "no tensors": lambda content: struct.pack("<Q", 2) + b"{}",
}
CONFIG = {
    "no model_type": _json(lambda c: {k: v for k, v in c.items() if k != "model_type"}),
    "labels as a list": _json(lambda c: c | {"id2label": ["a", "b"]}),
    "a size as a text": _json(lambda c: c | {"hidden_size": "wide", "encoder": "x"}),
    "a size of null": _json(lambda c: c | {"hidden_size": None, "decoder": None}),
    "negative layers": _json(lambda c: c | {"num_hidden_layers": -3, "latent_size": -3}),
    "a huge size": _json(lambda c: c | {"vocab_size": 10**13, "latent_size": 10**13}),
    "bases as a number": _json(lambda c: c | {"bases": 3, "base_record": 3, "lora_rank": "x"}),
    "attributes as a text": _json(lambda c: c | {"attributes": "abc", "num_labels": 99}),
}
TABLE = [
    *(("config.json", name, damage) for name, damage in (ANY_JSON | CONFIG).items()),
    *(("tokenizer.json", name, damage) for name, damage in ANY_JSON.items()),
    *(("tokenizer_config.json", name, damage) for name, damage in ANY_JSON.items()),
    *(("model.safetensors", name, damage) for name, damage in WEIGHTS.items()),
]
HARMLESS = {("config.json", "bases as a number"), ("config.json", "no model_type"), ("config.json", "attributes as a text"), ("config.json", "negative layers")}  # fmt: skip


@pytest.fixture
def evaluator(tmp_path, encoder_tokenizer):
    from transformers import BertConfig, BertForSequenceClassification

    size = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 32,
    }
    labels = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    folder = tmp_path / "evaluator"
    BertForSequenceClassification(
        BertConfig(vocab_size=len(encoder_tokenizer), **size, **labels)
    ).save_pretrained(folder)
    encoder_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path, make_miracle, encoder_tokenizer, decoder_tokenizer):
    folder = tmp_path / "cvae"
    make_miracle().save_pretrained(folder)
    decoder_tokenizer.save_pretrained(folder)
    encoder_tokenizer.save_pretrained(folder / "encoder_tokenizer")
    return folder


def load_evaluator(folder: Path) -> None:
    Evaluator.load(folder, "mood", torch.device("cpu"), {}, ["a", "b"])


def load_checkpoint(folder: Path) -> None:
    tokenizers_of(folder, load_cvae(folder).config)


@pytest.mark.parametrize("kind", ["evaluator", "checkpoint"])
@pytest.mark.parametrize(("file", "name", "damage"), TABLE, ids=[f"{file}-{name}" for file, name, _ in TABLE])
def test_a_damaged_checkpoint_is_one_line(kind, file, name, damage, request):
    folder, load = (
        request.getfixturevalue(kind),
        {"evaluator": load_evaluator, "checkpoint": load_checkpoint}[kind],
    )
    load(folder)
    path = folder / file
    path.write_bytes(damage(path.read_bytes()))
    try:
        load(folder)
    except Exception as error:
        assert is_user_error(error), f"{type(error).__name__}: {error}"
        said = message_for(error)
        assert "\n" not in said and str(folder) in said and len(said) < 600, said
        if (file, name) not in HARMLESS and isinstance(error, InputError):
            assert "train it again" in said or "another schema" in said, said
        if name in ANY_JSON:
            assert f"{file}: " in said, said
    else:
        assert (file, name) in HARMLESS


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", ANY_JSON)
def test_a_damaged_base_is_one_line(file, name, evaluator):
    """NaN in a configuration, such as layer_norm_eps, made numbers of no meaning in silence."""
    path = evaluator / file
    path.write_bytes(ANY_JSON[name](path.read_bytes()))
    for load in (load_config, load_encoder, load_tokenizer):
        with pytest.raises(BaseNotFound, match=f"cannot be loaded: {file}: ") as caught:
            load(str(evaluator))
        assert "\n" not in str(caught.value)


def test_a_damaged_record_of_where_a_base_is_from_is_one_line(tmp_path):
    (tmp_path / "base.json").write_text('{"name": ')
    with pytest.raises(BaseNotFound, match="base.json: not UTF-8 JSON"):
        record_of(str(tmp_path / "encoder"), torch.nn.Module(), "encoder")


@pytest.mark.parametrize("name", ["trainer_state.json", "optimizer.pt"])
def test_the_table_is_of_27_kinds_and_more(name):
    assert len({(file, kind) for file, kind, _ in TABLE}) >= 27


def out_of_room(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "outs/x/file")


@pytest.mark.parametrize("number", REMEDIES, ids=errno.errorcode.get)
def test_what_the_system_refuses_is_one_line(number):
    said = message_for(OSError(number, os.strerror(number), "outs/x"))
    assert said == f"outs/x: {REMEDIES[number]}"


@pytest.mark.parametrize(
    "text",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0",
        "PytorchStreamWriter failed writing file data/1",
        "basic_ios::clear: iostream error",
    ],
)
def test_a_full_disk_is_known_by_what_libraries_say_of_it(text):
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise ValueError("cannot save") from error
    except ValueError as error:
        assert "the disk is full; make room, and the same command goes on" in system_mistake(error)


def test_a_folder_with_a_link_to_nothing_and_links_in_a_circle_are_one_line(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "stage.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(shutil.Error) as copying:
        shutil.copytree(source, tmp_path / "copy")
    assert message_for(copying.value).startswith(f"{source / 'stage.json'} cannot be copied: ")
    (tmp_path / "circle").symlink_to("circle")
    try:
        (tmp_path / "circle").resolve()
    except (RuntimeError, OSError) as error:  # until Python 3.13
        assert str(tmp_path / "circle") in message_for(error)


@pytest.mark.parametrize("module", ["compare", "score"])
def test_a_seed_under_0_is_named(module):
    command = importlib.import_module(f"scoring.{module}")
    with pytest.raises(InputError, match="--seed: expected a whole number of 0 or more, found -1"):
        command.main(["a", "b", "--seed", "-1"][module == "score" :])


def test_mistakes_of_ours_keep_their_traceback():
    assert message_for(KeyError("x")) is None and message_for(RuntimeError("shape")) is None


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", [{"a": 1}])
    write_json(tmp_path / "x.json", {"a": 1})
    parts = Parts(tmp_path / "parts", "f")
    parts.close_part([{"a": 1}])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", out_of_room)
    for work in (
        lambda: write_jsonl(tmp_path / "rows.jsonl", [{"a": 2}]),
        lambda: write_json(tmp_path / "x.json", {"a": 2}),
        lambda: parts.close_part([{"a": 2}]),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            work()
        assert "the disk is full" in message_for(caught.value)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "parts"} == {
        name: content for name, content in before.items() if name != "parts"
    }
    again = Parts(tmp_path / "parts", "f")
    assert next(again.rows()) == {"a": 1} and len(again) in (
        1,
        2,
    )  # a part that had reached the file may count


COMMANDS = {
    "train_nli.py": ["--limit", "6", "--max_steps", "1", "--outs"],
    "train_classifier.py": ["--limit", "6", "--max_steps", "1", "--outs"],
    "scripts/clean_data.py": ["--output-dir"],
    "scripts/import_data.py": [
        str(ROOT / "dataset/corpus/test_dialogue_attitude.jsonl"),
        "--output",
    ],
    "make_data_chatgpt.py": ["--aspect", "lyrical", "--limit", "1", "--output-dir"],
}


def run_command(command: str, place: Path, **environment: str) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / command), *COMMANDS[command], str(place)]
    environment = (
        os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENAI_API_KEY": "x",
            "OPENAI_BASE_URL": "http://127.0.0.1:9",
        }
        | environment
    )
    return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_where_a_folder_should_be(command, tmp_path):
    (tmp_path / "file").write_text("x")
    done = run_command(command, tmp_path / "file" / "inner")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert str(tmp_path / "file") in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self").is_dir(), reason="/proc is the folder that nobody can write to, root included"
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written(command):
    done = run_command(command, Path("/proc/self/there"))
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_locale_without_utf8(locale, tmp_path):
    """Files are UTF-8 whatever the locale says, and what the terminal has no sign for is shown by its number."""
    code = (
        "from common.entry import run_main\nfrom common.jsonl import read_jsonl, write_jsonl\nfrom pathlib import Path\n"
        f"path = Path({str(tmp_path / 'rows.jsonl')!r})\n"
        "def main(argv):\n    write_jsonl(path, [{'a': 'ü→'}])\n    print(next(read_jsonl(path))[1]['a'])\n    return 0\nrun_main(main)\n"
    )
    program = tmp_path / "program.py"
    program.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | locale,
    )
    assert done.returncode == 0 and done.stdout in ("ü→\n".encode(), b"\\xfc\\u2192\n"), done.stderr
