"""A file system that is full, in every stage: one line, and with room again the same as if there had always been room."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_server import ChatServer

import make_data_chatgpt
import scoring.score
from common.entry import message_for
from common.jsonl import write_jsonl
from common.options import parse_arguments
from common.schema import load_schema
from dataset.schema_writer import write_schema
from experiments.rows import RowsFile
from generation import run
from model.bases import weights_hash
from scoring.scorer import Scorer
from scripts import clean_data, import_data
from training import classifier, coherence, cvae

pytestmark = pytest.mark.slow  # whole trainings and commands

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ["--schema", str(ROOT / "schema.py")]
PAGE = 4096
MEGABYTES = 48
EVALUATOR = "--scratch_layers 1 --scratch_width 16 --scratch_heads 2 --scratch_vocab_size 200 --max_length 24"
CVAE = (
    "--scratch_encoder_layers 1 --scratch_decoder_layers 1 --scratch_width 16 --scratch_heads 2 --scratch_vocab_size 300"
    " --latent_size 4 --n_prefix 2 --encoder_length 24 --decoder_length 24"
)
TRAINING = "--preset scratch --per_device_train_batch_size 4 --max_steps 3 --eval_strategy no --save_strategy steps --save_steps 1 --load_best_model_at_end false --logging_steps 1 --use_cpu"


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(folder)]
    if (
        sys.platform != "linux"
        or shutil.which("mount") is None
        or subprocess.run(words, capture_output=True).returncode
    ):
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def leave(disk: Path, room: int) -> None:
    """Fill the disk but for so many bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    free = os.statvfs(disk)
    with open(ballast, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, max(PAGE, free.f_bavail * free.f_frsize - room))


def filled_and_freed(disk: Path, rooms: list[int], work: Callable[[], object]) -> list[str]:
    """Start the same work with less room than it needs, with more each time, and at last with enough; what was said."""
    said = []
    for room in rooms:
        leave(disk, room)
        try:
            work()
            break
        except Exception as error:
            line = message_for(error)
            assert line is not None, f"a traceback with {room} bytes of room: {error!r}"
            assert "\n" not in line and "the disk is full; make room" in line, line
            said.append(line)
    (disk / "ballast").unlink()
    work()
    return said


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def names_in(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if not path.name.endswith(".lock")
    )


STAGES = {
    "classifier": (classifier, "classifier/attitude", f"--attribute attitude --limit 6 {EVALUATOR}"),
    "nli": (coherence, "nli", f"--limit 4 --pair_rounds 1 {EVALUATOR}"),
    "cvae": (cvae, "cvae", f"--limit 4 {CVAE}"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_training(stage, disk, tmp_path):
    module, place, words = STAGES[stage]

    def train(outs: Path) -> None:
        arguments = f"{words} {TRAINING} --outs {outs} --run r".split() + SCHEMA
        module.train(*parse_arguments(module.OPTIONS, stage, arguments, ""))

    train(tmp_path / "undisturbed")
    whole = size_of(tmp_path / "undisturbed")
    rooms = [int(whole * share) for share in (0.0, 0.4, 1.2, 2.5)]  # before, in and between checkpoints
    said = filled_and_freed(disk, rooms, lambda: train(disk / "outs"))
    assert len(said) >= 3
    assert weights_hash(disk / "outs/r" / place) == weights_hash(tmp_path / "undisturbed/r" / place)
    assert names_in(disk / "outs") == names_in(tmp_path / "undisturbed")


def results_in(folder: Path, name: str) -> dict:
    return json.loads((folder / "results" / f"{name}.json").read_text(encoding="utf-8"))["overall"]


def test_generation_and_scoring(disk, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr("generation.kept.AT_ONCE", 40)
    monkeypatch.setattr(scoring.score, "CHUNK", 4)
    undisturbed, short = tmp_path / "undisturbed/r", disk / "outs/r"
    for folder in (undisturbed, short):
        shutil.copytree(
            tiny_run, folder, ignore=shutil.ignore_patterns("generations*", "results*", "report.html")
        )

    def generate(folder: Path) -> None:
        words = [
            "--outs",
            str(folder.parent),
            "--run",
            "r",
            "--limit",
            "2",
            "--name",
            "x",
            "--candidates",
            "2",
            *SCHEMA,
        ]
        run.generate(*parse_arguments(run.OPTIONS, "generation", words, ""))

    def score(folder: Path) -> None:
        scorer = Scorer(folder, load_schema(str(ROOT / "schema.py")), run.choose_device("cpu"))
        replies = folder / "generations" / "x.jsonl"
        columns = scoring.score.score_file(
            replies, scorer.schema, scorer, None, folder / "generations" / "again.jsonl"
        )
        assert len(columns) == 16

    for work in (generate, score):
        work(undisturbed)
        said = filled_and_freed(disk, [0, PAGE, 3 * PAGE, 8 * PAGE], lambda: work(short))  # noqa: B023
        assert len(said) >= 2
    for name in ("x", "again"):
        replies = f"generations/{name}.jsonl"
        assert (short / replies).read_bytes() == (undisturbed / replies).read_bytes()
    assert results_in(short, "x") == results_in(undisturbed, "x")
    assert names_in(short) == names_in(undisturbed)


def test_a_collection(disk, tmp_path, monkeypatch):
    """What has been answered and kept is not asked for again, however often the disk is full."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789abcdefghij")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    topics = tmp_path / "topics.txt"
    topics.write_text("".join(f"thing {n}\n" for n in range(40)), encoding="utf-8")
    left, asked = {}, {}
    for place in (tmp_path / "undisturbed", disk / "out"):
        server = ChatServer()
        words = ["--aspect", "lyrical", "--topics", str(topics), "--base-url", server.url, "--output-dir", str(place), "--n-turns", "1", "--concurrency", "1", *SCHEMA]  # fmt: skip
        try:
            if place.parent == disk:
                said = filled_and_freed(
                    disk, [0, 2 * PAGE, 4 * PAGE, 8 * PAGE, 12 * PAGE], lambda: make_data_chatgpt.main(words)
                )  # noqa: B023
                assert len(said) >= 2
            else:
                make_data_chatgpt.main(words)
        finally:
            server.shutdown()
            server.server_close()
        files = [place / "dialogue_languagestyle.jsonl", place / "kept" / "lyrical.jsonl"]
        left[place] = [sorted(path.read_bytes().splitlines()) for path in files]
        asked[place] = sum(server.requests.values())
    undisturbed, short = left
    assert left[short] == left[undisturbed] and len(left[short][0]) >= 30
    assert asked[short] <= asked[undisturbed] + len(said)  # the answer under way, once for each full disk


def test_a_table_of_rows(disk, tmp_path):
    """An experiment's: a cell whose row found no room is measured again, and no row is half there."""

    def measure(path: Path) -> None:
        table = RowsFile(path, ["key", "text"])
        for number in range(len(table.rows), 60):
            table.append({"key": number, "text": f"row, {number} " + "x" * 200})

    measure(tmp_path / "rows.csv")
    said = filled_and_freed(disk, [0, PAGE, 2 * PAGE, 3 * PAGE], lambda: measure(disk / "rows.csv"))
    assert len(said) >= 2 and (disk / "rows.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


def test_data_that_is_brought_in_and_cleaned(disk, tmp_path):
    rows = [{"input": [f"How is thing {n}?"], "output": [f"Thing {n} is {'so ' * (n % 9 + 1)}well."], "tag": ["plain", "lyrical"][n % 2]} for n in range(400)]  # fmt: skip
    write_jsonl(tmp_path / "rows.jsonl", rows)
    attribute = {
        "name": "style",
        "aspects": ["plain", "lyrical"],
        "dialogues": "rows.jsonl",
        "dev_dialogues": "rows.jsonl",
    }
    write_schema(tmp_path / "schema.py", [attribute | {"dev_dialogues": None}], {}, "For a test.")
    schema = ["--schema", str(tmp_path / "schema.py")]

    def bring_in(folder: Path) -> None:
        import_data.main(
            [str(tmp_path / "rows.jsonl"), "--output", str(folder / "mine.jsonl"), "--overwrite", *schema]
        )

    def clean(folder: Path) -> None:
        clean_data.main(["--output-dir", str(folder / "clean"), *schema])

    for work in (bring_in, clean):
        (tmp_path / "undisturbed").mkdir(exist_ok=True)
        work(tmp_path / "undisturbed")
        said = filled_and_freed(disk, [0, PAGE, 3 * PAGE], lambda: work(disk))  # noqa: B023
        assert len(said) >= 2
    for name in ("mine.jsonl", "clean/rows.jsonl"):
        assert (disk / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
