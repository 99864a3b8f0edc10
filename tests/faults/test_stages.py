"""A stage that is stopped, started twice, or has lost something: the next start finishes it, and nothing is called finished that is not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from common.errors import InputError
from common.jsonl import write_json
from common.locks import exclusive
from model.bases import weights_hash
from training.inputs import Inputs
from training.stage import Stage, damage

ROOT = Path(__file__).resolve().parents[2]


def weights_of(number: float):
    def save(folder: Path) -> None:
        save_file({"w": torch.full((4,), number)}, folder / "model.safetensors")

    return save


def trained(stage: Stage, number: float = 1.0) -> dict:
    """A finished stage, as the trainings finish theirs."""
    metrics = {}

    def save(folder: Path) -> None:
        weights_of(number)(folder)
        metrics["hash"] = weights_hash(folder)

    return stage.finish(save, metrics, 1.0)


@pytest.fixture
def stage(tmp_path) -> Stage:
    return Stage("mood", tmp_path / "mood", Inputs(1, {"seed": 0}, {}))


def checkpoint(stage: Stage, steps: int) -> Path:
    """A whole checkpoint."""
    folder = stage.work / f"checkpoint-{steps}"
    folder.mkdir(parents=True)
    weights_of(steps)(folder)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"a": torch.ones(3)}, folder / name)
    write_json(folder / "trainer_state.json", {"global_step": steps})
    return folder


def test_a_finished_stage_is_found(stage):
    trained(stage)
    assert stage.finished()["metrics"]["hash"] == weights_hash(stage.folder)


@pytest.mark.parametrize("loss", ["deleted", "cut", "another's"])
def test_weights_that_are_not_those_recorded_are_not_finished(stage, loss, capsys):
    trained(stage)
    path = stage.folder / "model.safetensors"
    if loss == "deleted":
        path.unlink()
    elif loss == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        weights_of(2.0)(stage.folder)
    assert stage.finished() is None and "are not those that its stage.json names" in capsys.readouterr().out


def test_the_earlier_training_stays_until_the_new_one_is_in_place(stage, monkeypatch):
    """Ended between the two moves, the next start finds the earlier one."""
    trained(stage, 1.0)
    before, rename = weights_hash(stage.folder), Path.rename

    def ended(path, target):
        if path.name == "final":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", ended)
    with pytest.raises(KeyboardInterrupt):
        trained(stage, 2.0)
    monkeypatch.undo()
    assert not stage.folder.exists() and stage.finished() is not None and weights_hash(stage.folder) == before
    trained(stage, 2.0)
    assert weights_hash(stage.folder) != before and not stage.aside.exists() and not stage.work.exists()


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_checkpoint_cut_off_at_any_file_gives_way_to_the_one_before(stage, file, share, capsys):
    stage.last_checkpoint()
    whole, cut = checkpoint(stage, 10), checkpoint(stage, 20)
    content = (cut / file).read_bytes()
    (cut / file).write_bytes(content[: int(share * len(content))])
    assert damage(whole) is None and damage(cut)
    assert stage.last_checkpoint() == str(whole) and not cut.exists()
    assert "checkpoint-20 is not whole" in capsys.readouterr().out


def test_files_that_are_not_there_yet_are_missed(stage):
    stage.last_checkpoint()
    cut = checkpoint(stage, 9)
    (cut / "trainer_state.json").unlink()
    assert damage(cut) == "no trainer_state.json" and stage.last_checkpoint() is None
    whole = checkpoint(stage, 100)
    checkpoint(stage, 30)
    assert stage.last_checkpoint() == str(whole)  # by number, not by name


def test_one_process_at_a_time(tmp_path):
    """And the lock of a process that was killed is no lock."""
    place = tmp_path / "run" / "nli"
    code = f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from common.locks import exclusive\nwith exclusive(Path({str(place)!r}), 'x'):\n    print('held', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with (
        pytest.raises(
            InputError,
            match="nli: another process is at work on .*; wait for it to end, or choose another --run",
        ),
        exclusive(place, "nli"),
    ):
        pass
    other.kill()
    other.wait()
    with exclusive(place, "nli"):
        pass


def test_the_processes_of_one_training_are_one(tmp_path, monkeypatch):
    """The first one holds the lock, and the others do not ask for it (`tests/processes/` has real ones)."""
    with exclusive(tmp_path / "nli", "nli"):
        monkeypatch.setattr("common.locks.by_first", lambda work: None)
        with exclusive(tmp_path / "nli", "nli"):
            pass


@pytest.mark.slow
def test_two_starts_at_once_leave_one_whole_run(tmp_path):
    """Both ended with 0, and the run had no weights and was called finished."""
    words = [
        "--limit",
        "6",
        "--max_steps",
        "2",
        "--outs",
        str(tmp_path),
        "--run",
        "x",
        "--schema",
        str(ROOT / "schema.py"),
    ]
    command = [sys.executable, str(ROOT / "train_nli.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pair = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate() for process in pair]
    states = sorted(process.returncode for process in pair)
    assert states in ([0, 0], [0, 2]), said
    if states == [0, 2]:
        assert any("another process is at work on" in error for _, error in said)
    assert (tmp_path / "x" / "nli" / "model.safetensors").is_file()
    again = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert again.returncode == 0 and "already trained" in again.stdout
    shutil.rmtree(tmp_path / "x")
