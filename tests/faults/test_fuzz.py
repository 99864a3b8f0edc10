"""Every reader and every file of state, on thousands of damaged inputs: a value or one line of error, in little time and memory.

``pytest tests/faults/test_fuzz.py --fuzz 100000 --fuzz-seed 7`` tries more, and others.
"""

import contextlib
import io
import json
import random
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from faults.damage import as_json, damaged_bytes, damaged_value

from common import secrets
from common.base_models import record_of
from common.errors import InputError
from common.jsonl import parse_line, read_json, read_jsonl
from common.options import CommonArguments, parse_arguments, read_preset
from common.schema import load_schema
from dataset.dialogues import read_dialogues
from dataset.formats import exchanges, taken
from dataset.nli import make_pairs, read_nli
from dataset.sources import Source, parse_item
from dataset.synthesis.answers import Malformed, Refusal, read_answer
from dataset.synthesis.costs import Meter, price_of
from dataset.synthesis.files import Output
from dataset.synthesis.journal import Journal
from dataset.synthesis.service import NotACompletion, answer_of, json_of
from dataset.synthesis.tasks import Persona, read_topics
from dataset.tables import rows_of
from dataset.texts import read_text_file
from experiments.grid import read_grid
from experiments.options import crossed
from experiments.rows import RowsFile
from generation.options import ControlArguments, DecodingArguments, recorded_options
from generation.run import check_replaces_its_like
from miracle import _recorded
from scoring.report.replies import read_replies
from scoring.report.run_report import read_run
from scoring.score import baseline_of, score_file
from scoring.sheet import read_answers, read_key, win_rate
from training.inputs import Inputs
from training.stage import Stage, damage

pytestmark = pytest.mark.slow  # whole trainings and commands

ROOT = Path(__file__).resolve().parents[2]
SLOWEST = 2.0  # seconds for one input
MEMORY = 300  # MB that all inputs of one reader may add to the process
LINE = 2000  # characters of a message

ROW = {"input": ["How are you?", "Why?"], "output": ["Well.", "So."], "tag": "lyrical", "topic": "rain"}
GENERATION = {
    "id": "0", "context": ["How are you?"], "target": {"style": "lyrical", "mood": "sad"}, "response": "Well, as rain on a hill.",
    "cvae": "c", "evaluators": "e", "reference": "Well.", "predicted": {"style": "plain", "mood": "sad"}, "nli": 0.5, "nats": 3.5, "tokens": 4, "seed": 0,
    "probabilities": {"style": {"plain": 0.6, "lyrical": 0.4}, "mood": {"calm": 0.1, "angry": 0.1, "sad": 0.8}},
}  # fmt: skip
NLI_ROW = {"input": "How are you?\nWell.\nWhy?", "output": "So.", "label": 1}
RESULTS = json.loads((ROOT / "release/chat/results.json").read_text(encoding="utf-8"))
RESULTS["by_target"] = dict(list(RESULTS["by_target"].items())[:1])
RESULTS["run"]["data"] = {"training": "t", "contexts": "c"}
STAGE = json.loads((ROOT / "release/chat/nli/stage.json").read_text(encoding="utf-8"))
INPUTS = Inputs(1, {"seed": 0}, {"the training dialogues": "a", "the base": None})
STAGE = {"inputs": INPUTS.record()} | STAGE
ATTRIBUTES = [
    {
        "name": "style",
        "aspects": ["plain", "lyrical"],
        "dialogues": "d.jsonl",
        "descriptions": {"plain": "Says it."},
    },
    {"name": "mood", "aspects": ["calm", "angry", "sad"]},
]
KEY = {
    "format": 1, "sha256": "0", "seed": 0, "systems": ["a", "b"], "equal_comparisons_left_out": 0,
    "items": {"s1f0c9a-1": {"A": "a", "B": "b", "context": ["How are you?"], "target": {"style": "lyrical"}}},
}  # fmt: skip
JOURNAL = [
    {"kind": "memory", "name": "format", "value": "json_object"},
    {"kind": "memory", "name": "submission", "value": {"mark": "m", "requests": ["r"], "batch": "b"}},
    {"kind": "sent", "key": "k", "attempt": 0},
    {
        "kind": "answer",
        "key": "k",
        "attempt": 0,
        "text": "So.",
        "tokens_in": 3,
        "tokens_out": 4,
        "batch": False,
    },
]
COMPLETION = {
    "choices": [{"message": {"role": "assistant", "content": '{"dialogue": []}'}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}
GRID = {
    "seeds": [0, 1],
    "models": {"full": {"kind": "cvae", "latent_size": [8, 16], "generation": {"weights": [1, 10]}}},
    "contexts": "dev:4",
}
PRESET = yaml.safe_load((ROOT / "scripts/presets/demo.yaml").read_text(encoding="utf-8"))
LATENTS = {
    "attributes": {"style": ["plain", "lyrical"]}, "axes": {"explained": [0.6, 0.2]}, "prior": [[0.0, 1.0]],
    "points": [{"target": {"style": "plain"}, "start": [0.0, 0.0], "end": [1.0, 1.0]}], "time": [0.0, 1.0],
    "energy": {"mean": [1.0, 0.5], "low": [0.5, 0.2], "high": [2.0, 1.0]}, "probability": {},
}  # fmt: skip
ANSWER = '<think>no</think>```json\n{"dialogue": [{"user": "How is the rain today?", "reply": "Soft as wool."}]}\n```'


@dataclass(frozen=True)
class Reader:
    """What reads a file: a good content, its name, and how it is read."""

    content: object
    name: str
    read: Callable[[Path], object]
    write: Callable[[object], bytes] = as_json


def lines(rows: object) -> bytes:
    return b"".join(as_json(row) + b"\n" for row in rows) if isinstance(rows, list) else as_json(rows)


def text(content: object) -> bytes:
    return content.encode() if isinstance(content, str) else as_json(content)


def as_yaml(content: object) -> bytes:
    try:
        return yaml.safe_dump(content, allow_unicode=True).encode()
    except RecursionError:
        return as_json(content)


def as_schema(attributes: object) -> bytes:
    return f"ATTRIBUTES = {attributes!r}\nTEST = 'test.jsonl'\n".encode()


def as_csv(content: object) -> bytes:
    return content.encode() if isinstance(content, str) else as_json(content)


def all_of(rows) -> list:
    return list(rows)


def three_schema():
    from common.schema import Attribute, Schema

    return Schema(
        (Attribute("style", ("plain", "lyrical")), Attribute("mood", ("calm", "angry", "sad"))),
        path=Path("my_schema.py"),
    )


SCHEMA = three_schema()
STYLE = SCHEMA.attributes[0]


class Columns:
    def summary(self) -> dict:
        return {}


def journal(path: Path):
    found = Journal(path)
    try:
        meter = Meter(None)
        for answer in found.answers.values():
            meter.add(answer)
        return found.memory.get("submission") and found.memory["submission"]["requests"]
    finally:
        found.close()


def pairs(path: Path):
    return make_pairs(read_dialogues(path, SCHEMA, STYLE, labelled=True), 2, 0)


def imported(path: Path):
    for where, row in rows_of(path)[1]:
        if not isinstance(row, InputError):
            with contextlib.suppress(InputError):  # rows that cannot be taken are named and left out
                exchanges(taken(row, where).turns, where)


def items(kind: str) -> Callable[[Path], object]:
    def read(path: Path):
        source = Source(path, kind, "train", None if kind in ("nli", "test") else STYLE)
        return [
            parse_item(line + b"\n", str(path), source, SCHEMA)
            for line in path.read_bytes().split(b"\n")
            if line.strip()
        ]

    return read


def preset(path: Path):
    read_preset(str(path))
    options = (CommonArguments, ControlArguments, DecodingArguments)
    return parse_arguments(options, "generation", ["--preset", str(path)], "")


def answer(path: Path):
    persona = Persona({"style": "lyrical"}, {"lyrical": "Sings."})
    return read_answer(path.read_bytes().decode("utf-8", "replace"), persona, 1)


def grid(path: Path):
    for entry in read_grid(path).models.values():
        crossed(entry)


def kept(path: Path):
    folder = path.parent / "out"
    (folder / "kept").mkdir(parents=True, exist_ok=True)
    path.replace(folder / "kept" / "lyrical.jsonl")
    output = Output(folder, SCHEMA, 0.1, overwrite=True)
    return output.write(Persona({"mood": "sad"}, {"sad": "Sighs."}), [])


def made(path: Path):
    folder = path.parent / "made"
    folder.mkdir(exist_ok=True)
    path.replace(folder / "made.json")
    return Output(folder, SCHEMA, 0.1, overwrite=False)


def stage(path: Path):
    return Stage("mood", path.parent, INPUTS).finished()


def started(path: Path):
    work = path.parent / "mood.partial"
    work.mkdir(exist_ok=True)
    path.replace(work / "started.json")
    return Stage("mood", path.parent / "mood", INPUTS).last_checkpoint()


def results(path: Path):
    run = path.parent / "run"
    (run / "results").mkdir(parents=True, exist_ok=True)
    content = path.read_bytes()
    for place in (run / "results.json", run / "results" / "none.json"):
        place.write_bytes(content)
    read_run(run)
    baseline_of(run, "control", Columns(), "c", {"nli": {"hash": "h"}})
    now = RESULTS["run"]["config"]["generation"]
    now = now | recorded_options(ControlArguments, now)
    check_replaces_its_like(run / "results" / "none.json", now)
    recorded = (read_json(run / "results.json") or {}).get("run", {}).get("config", {}).get("generation", {})
    return [_recorded(kind, recorded, run) for kind in (ControlArguments, DecodingArguments)]


def sheet(path: Path):
    key = read_key(path.parent)
    answers = path.parent / "answers.csv"
    answers.write_text("item,personality,coherence,fluency\n", encoding="utf-8")
    with contextlib.suppress(InputError):
        read_answers([answers], key)
    return win_rate([], ("a", "b"), key)


def answers(path: Path):
    return read_answers([path], KEY)


READERS = {
    "JSON Lines": Reader([ROW], "rows.jsonl", lambda p: all_of(read_jsonl(p)), lines),
    "dialogues": Reader([ROW, ROW], "rows.jsonl", lambda p: read_dialogues(p, SCHEMA, STYLE, labelled=True), lines),
    "test dialogues": Reader([ROW | {"tag": ["plain", None]}], "rows.jsonl", lambda p: read_dialogues(p, SCHEMA), lines),
    "texts": Reader([{"text": "So.", "label": "plain"}], "t.jsonl", lambda p: read_text_file(p, SCHEMA, STYLE), lines),
    "NLI": Reader([NLI_ROW, NLI_ROW], "nli.jsonl", lambda p: all_of(read_nli(p)), lines),
    "pairs": Reader([ROW, ROW | {"input": ["A", "B"]}], "rows.jsonl", pairs, lines),
    "checked rows": Reader([ROW], "rows.jsonl", items("dialogues"), lines),
    "checked NLI rows": Reader([NLI_ROW], "rows.jsonl", items("nli"), lines),
    "generations": Reader([GENERATION] * 2, "control.jsonl", lambda p: score_file(p, SCHEMA), lines),
    "replies of a report": Reader([GENERATION], "g.jsonl", lambda p: read_replies(p, SCHEMA.aspects), lines),
    "imported JSON": Reader([{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "So."}]}], "c.json", imported),
    "imported lines": Reader([{"prompt": "Hi", "response": "So.", "label": "plain"}], "c.jsonl", imported, lines),
    "imported CSV": Reader("prompt,response,label\nHi,So.,plain\n\"a\nb\",c,lyrical\n", "c.csv", imported, as_csv),
    "answers": Reader(ANSWER, "answer.txt", answer, text),
    "completions": Reader(COMPLETION, "c.json", lambda p: answer_of(json_of(p.read_bytes()), "k", 0, [{"content": "x"}])),
    "journal": Reader(JOURNAL, "journal.jsonl", journal, lines),
    "kept dialogues": Reader([{**ROW, "tag": "lyrical"}], "lyrical.jsonl", kept, lines),
    "made.json": Reader({"test.jsonl": "0" * 64, "schema.py": "1" * 64}, "made.json", made),
    "topics": Reader("rain\n# no\nbread and butter\n", "topics.txt", read_topics, text),
    "prices": Reader({"m": {"input": 0.4, "output": 1.6}}, "prices.yaml", lambda p: price_of("m", p), as_yaml),
    "preset": Reader(PRESET, "preset.yaml", preset, as_yaml),
    "grid": Reader(GRID, "grid.yaml", grid, as_yaml),
    "schema": Reader(ATTRIBUTES, "my_schema.py", load_schema, as_schema),
    "stage.json": Reader(STAGE, "stage.json", stage),
    "started.json": Reader({"inputs": INPUTS.record()}, "started.json", started),
    "trainer_state.json": Reader({"global_step": 3, "log_history": [{"step": 1}]}, "trainer_state.json", lambda p: damage(p.parent)),
    "results.json": Reader(RESULTS, "results.json", results),
    "latents": Reader(LATENTS, "control.latents.json", read_json),
    "sweep": Reader({"points": [{"weight": 1.0, "overall": RESULTS["overall"], "warnings": []}]}, "control.sweep.json", read_json),
    "experiment.json": Reader({"command": "x", "evaluators": RESULTS["evaluators"], "warnings": []}, "experiment.json", read_json),
    "results.csv": Reader("key,model,nli\nk,full,0.5\nl,full,\n", "results.csv", lambda p: RowsFile(p, ["key", "nli"]), as_csv),
    "key.json": Reader(KEY, "key.json", sheet),
    "answers.csv": Reader("item,annotator,personality,coherence,fluency\ns1f0c9a-1,me,A,B,=\n", "a.csv", answers, as_csv),
    "base.json": Reader({"name": "smollm2", "source": "hub"}, "base.json", lambda p: record_of(p.parent)),
    "config.json": Reader(json.loads((ROOT / "release/chat/cvae/config.json").read_text()), "config.json", read_json),
    "a line": Reader(ROW, "x", lambda p: parse_line(p.read_bytes(), "x:1")),
}  # fmt: skip
ALLOWED = (InputError, Malformed, Refusal, NotACompletion)


def peak() -> float:
    """Most memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_anything(name, tmp_path, pytestconfig, monkeypatch):
    monkeypatch.setattr(secrets, "_known", set())
    reader, rng = READERS[name], random.Random(f"{pytestconfig.getoption('fuzz_seed')}-{name}")
    number, before = -(-pytestconfig.getoption("fuzz") // len(READERS)), peak()
    path, read = tmp_path / reader.name, 0
    path.write_bytes(reader.write(reader.content))
    reader.read(path)  # as it was written, it can be read
    for _ in range(number):
        value = (
            damaged_value(reader.content, rng)
            if not isinstance(reader.content, str) and rng.random() < 0.5
            else None
        )
        content = reader.write(reader.content if value is None else value)
        if value is None:
            content = damaged_bytes(content, rng)
        path.write_bytes(content)
        began = time.process_time()
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                reader.read(path)
            read += 1
        except ALLOWED as error:
            assert "\n" not in " ".join(str(error).split()) and len(str(error)) < LINE, (
                content[:300],
                str(error)[:300],
            )
        except Exception as error:
            raise AssertionError(
                f"{name}: {type(error).__name__}: {str(error)[:200]} of {content[:3000]!r}"
            ) from error
        assert time.process_time() - began < SLOWEST, content[:300]
    assert peak() - before < MEMORY
