"""SIGTERM and SIGINT in every kind of work: what was done is kept, the exit status says which it was, and nobody works on alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from transformers import Trainer

import generation.kept
import scoring.score
from common.interruption import Interrupted
from common.options import parse_arguments
from common.parts import Parts
from generation import run
from generation.generator import ReplyGenerator
from scoring.scorer import Scorer
from training import classifier, coherence, cvae

pytestmark = pytest.mark.slow  # whole trainings and commands

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ["--schema", str(ROOT / "schema.py")]
STAGES = {"classifier": classifier, "nli": coherence, "cvae": cvae}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def started(code: str, tmp_path: Path) -> subprocess.Popen:
    """A process that runs a program from a file, and has said that it is ready."""
    script = tmp_path / "program.py"
    script.write_text(code, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # a shell has what it runs in the background ignore SIGINT, and these tests may run there
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


@pytest.mark.parametrize(
    ("stage", "number"), [*((stage, signal.SIGTERM) for stage in STAGES), ("nli", signal.SIGINT)]
)
def test_a_training_ends_at_the_next_step_with_a_checkpoint(stage, number, tmp_path, monkeypatch, capsys):
    words = [
        "--limit",
        "6",
        "--max_steps",
        "4",
        "--per_device_train_batch_size",
        "4",
        "--outs",
        str(tmp_path),
        "--run",
        "x",
        *SCHEMA,
    ]
    configuration = parse_arguments(STAGES[stage].OPTIONS, stage, words, "")
    kind, calls = (cvae.CvaeTrainer if stage == "cvae" else Trainer), []
    step = kind.training_step

    def ended(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(kind, "training_step", ended)
    before = signal.getsignal(number)
    with pytest.raises(
        Interrupted, match="after step 2; checkpoint-2 is saved, and the same command goes on"
    ) as caught:
        STAGES[stage].train(*configuration)
    assert caught.value.status == 128 + number and len(calls) == 2 and signal.getsignal(number) == before
    STAGES[stage].train(*configuration)
    assert "going on from checkpoint-2" in capsys.readouterr().out
    assert list((tmp_path / "x").rglob("model.safetensors")) and not list(
        (tmp_path / "x").rglob("checkpoint-*")
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(number, tmp_path):
    process = started(
        "import signal, time\nfrom common.interruption import handled\nfrom training.interruption import StopAtSignal\n"
        "stop = StopAtSignal('x')\nwith handled(stop.note, signal.SIGTERM, signal.SIGINT):\n"
        "    print('ready', flush=True)\n    while stop.number is None: time.sleep(0.01)\n"
        "    print('noted', flush=True)\n    time.sleep(60)\n",
        tmp_path,
    )
    process.send_signal(number)
    assert process.stdout.readline() == "noted\n"
    process.send_signal(number)
    assert process.wait(10) == 128 + number


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "\ninterrupted\n")]
)
def test_every_command_cleans_up_and_says_which_signal_it_was(number, status, said, tmp_path):
    """It promises no checkpoint: only trainings have one."""
    process = started(
        "import time\nfrom common.entry import run_main\ndef main(argv):\n    try:\n        print('ready', flush=True)\n        time.sleep(60)\n"
        "    finally:\n        print('cleaned', flush=True)\nrun_main(main)\n",
        tmp_path,
    )
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (status, "cleaned\n", said)


WORKERS = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from experiments.orphans import end_with_parent

def work(number):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), end_with_parent)
    print("ready", flush=True)
    futures = [pool.submit(work, i) for i in range(2)]
    futures[0].result()
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")
@pytest.mark.parametrize("prctl", [True, False])
def test_workers_end_with_their_parent(prctl, tmp_path):
    """Also where the kernel does not see to it."""
    code = WORKERS if prctl else WORKERS.replace("def work", "import sys\nsys.platform = 'other'\n\ndef work")
    parent = started(code, tmp_path)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, workers))


def test_a_file_of_parts_cut_anywhere_goes_on_as_if_never_cut(tmp_path):
    parts = [[{"a": 1}, {"b": "[x"}], [{"c": "ü\u2028"}], [], [{"d": None}]]

    def write(path: Path) -> bytes:
        file = Parts(path, "f")
        for number, rows in enumerate(parts[len(file) :], len(file)):
            file.close_part(rows, {"number": number, "x": float("inf")})
        assert list(file.rows()) == [row for rows in parts for row in rows]
        assert list(file.parts()) == parts and [note["number"] for note in file.notes] == [0, 1, 2, 3]
        return path.read_bytes()

    whole = write(tmp_path / "whole")
    for length in range(len(whole) + 1):
        path = tmp_path / "cut"
        path.write_bytes(whole[:length])
        assert write(path) == whole
    path.write_bytes(whole)
    assert len(Parts(path, "another")) == 0 and len(path.read_bytes()) < 100


def generated(tiny_run: Path, name: str):
    words = ["--outs", str(tiny_run.parent), "--run", tiny_run.name, "--limit", "2", "--name", name, *SCHEMA]
    run.generate(*parse_arguments(run.OPTIONS, "generation", words, ""))
    return (tiny_run / "generations" / f"{name}.jsonl").read_bytes()


def interrupting(monkeypatch, kind: type, name: str, at: int) -> list:
    """Make the `at`-th call of a method an interruption; returns the list of its calls."""
    calls, method = [], getattr(kind, name)

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    monkeypatch.setattr(kind, name, counted)
    return calls


def test_generation_and_scoring_go_on_and_give_the_identical_file(tiny_run, monkeypatch, capsys):
    monkeypatch.setattr(generation.kept, "AT_ONCE", 40)
    monkeypatch.setattr(scoring.score, "CHUNK", 4)
    whole = generated(tiny_run, "whole")
    rows = whole.count(b"\n")
    with monkeypatch.context() as patch:
        calls = interrupting(patch, ReplyGenerator, "write", 3)
        with pytest.raises(
            Interrupted,
            match="whole parts are kept in .*generations, and the same command goes on behind them",
        ):
            generated(tiny_run, "ended")
        assert len(calls) == 3
    with monkeypatch.context() as patch:
        calls = interrupting(patch, Scorer, "score", 3)
        written = interrupting(patch, ReplyGenerator, "write", 10**9)
        with pytest.raises(Interrupted):
            generated(tiny_run, "ended")
        assert "going on behind" in capsys.readouterr().out and written
    with monkeypatch.context() as patch:
        calls = interrupting(patch, Scorer, "score", 10**9)
        written = interrupting(patch, ReplyGenerator, "write", 10**9)
        assert generated(tiny_run, "ended") == whole
        assert not written  # all replies were kept
        lines = whole.splitlines()
        references = sum(
            any(b'"reference": "' in line for line in lines[i : i + 4]) for i in range(0, rows, 4)
        )
        assert len(calls) == -(-rows // 4) - 2 + references  # and two chunks of scores
    assert not list((tiny_run / "generations").glob("*.partial"))


def test_other_options_begin_anew(tiny_run, monkeypatch):
    monkeypatch.setattr(generation.kept, "AT_ONCE", 40)
    with monkeypatch.context() as patch:
        interrupting(patch, ReplyGenerator, "write", 2)
        with pytest.raises(Interrupted):
            generated(tiny_run, "other")
    words = [
        "--outs",
        str(tiny_run.parent),
        "--run",
        tiny_run.name,
        "--limit",
        "2",
        "--name",
        "other",
        "--seed",
        "5",
        *SCHEMA,
    ]
    with monkeypatch.context() as patch:
        calls = interrupting(patch, ReplyGenerator, "write", 10**9)
        options = parse_arguments(run.OPTIONS, "generation", words, "")
        run.generate(*options)
    rows = (tiny_run / "generations" / "other.jsonl").read_bytes().count(b"\n")
    assert len(calls) == -(-rows // (40 // options[2].candidates))  # every part is written
