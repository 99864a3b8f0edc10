"""A scheduler's jobs measure an experiment: one per model, one writer, and nothing is measured twice."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from common.errors import InputError
from common.jsonl import write_json
from experiments import jobs
from experiments.__main__ import main
from experiments.grid import read_grid
from experiments.jobs import Jobs, JobSettings, _Unit, read_options
from experiments.plan import Cell
from experiments.system import Model

ROOT = Path(__file__).resolve().parents[2]


def cells(*keys: str) -> list[Cell]:
    model = Model("ours", "cvae", 0, {}, {}, {}, "name")
    return [Cell(model, {}, {}, key) for key in keys]


def line(key: str, row: dict | None) -> str:
    failure = None if row else {"key": key, "reason": "no room"}
    return json.dumps({"key": key, "row": row, "failure": failure, "loading": None, "seconds": 1.5}) + "\n"


class Ended:
    """A job that has ended."""

    job_id = "7"

    class paths:  # noqa: N801
        stderr = "7_log.err"

    def done(self):
        return True

    def exception(self):
        return RuntimeError("much text\nslurmstepd: error: Exceeded job memory limit")


def test_outcomes_are_taken_once_and_what_an_ended_job_did_not_say_has_failed(tmp_path):
    unit = _Unit(tmp_path, cells("a", "b", "c"))
    unit.job = Ended()
    unit.outcomes_path.write_text(line("a", {"nli": 0.5}) + line("b", None)[:9])
    (first,) = unit.outcomes()
    assert first.cell.key == "a" and first.row == {"nli": 0.5} and first.seconds == 1.5
    unit.outcomes_path.write_text(line("a", {"nli": 0.5}) + line("b", None))
    (second,) = unit.outcomes()
    assert second.cell.key == "b" and second.failure["reason"] == "no room" and list(unit.outcomes()) == []
    (lost,) = unit.failures()
    assert (
        lost.cell.key == "c"
        and lost.failure["reason"] == "job 7: slurmstepd: error: Exceeded job memory limit"
    )
    assert lost.failure["at"] == "7_log.err" and list(unit.failures()) == []


def test_a_second_start_takes_an_earlier_one_s_rows_and_tries_its_failures_again(tmp_path):
    unit = _Unit(tmp_path, cells("a", "b"))
    unit.outcomes_path.write_text(line("a", {"nli": 0.5}) + line("b", None))
    assert [outcome.cell.key for outcome in unit.outcomes()] == ["a"] and list(unit.missing) == ["b"]


def test_a_job_under_way_is_waited_for_and_not_submitted_again(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    submitted = []

    class Known:
        def __init__(self, folder, job_id):
            self.job_id, self.state = job_id, "RUNNING" if job_id == "5" else "CANCELLED by 0"

    class Executor:
        def submit(self, *work):
            submitted.append(work)
            return Ended()

    monkeypatch.setattr(jobs._submitit(), "SlurmJob", Known)
    ours = Jobs.__new__(Jobs)
    ours.folder, ours.settings, ours.executor = tmp_path, JobSettings("slurm", {}), Executor()
    monkeypatch.setattr(jobs, "_on_shared_disk", lambda plan: plan)
    ours.plan = None
    unit = _Unit(tmp_path, cells("a"))
    write_json(unit.note, {"executor": "slurm", "job": "5"})
    unit.find_or_submit(ours)
    assert unit.job.job_id == "5" and not submitted
    write_json(unit.note, {"executor": "slurm", "job": "6"})
    unit.find_or_submit(ours)
    assert unit.job.job_id == "7" and len(submitted) == 1
    assert json.loads(unit.note.read_text()) == {"executor": "slurm", "job": "7"}


def test_options_of_jobs():
    found = read_options("slurm_partition=gpu, gpus_per_node=1")
    assert found == {"slurm_partition": "gpu", "gpus_per_node": 1} and read_options(None) == {}
    with pytest.raises(InputError, match="--job-options: expected name=value,..., found 'gpu'"):
        read_options("gpu")
    with pytest.raises(InputError, match="--job-options without --executor"):
        main(["experiments/demo.yaml", "--job-options", "mem_gb=4"])


def test_without_a_scheduler_it_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump({"models": {"people": {"kind": "human"}}, "outs": str(tmp_path)}))

    class Plan:
        pass

    plan = Plan()
    plan.grid = read_grid(grid)
    with pytest.raises(InputError, match="--executor slurm: "):
        Jobs(plan, JobSettings("slurm", {}))


@pytest.mark.slow
def test_jobs_measure_a_grid_and_a_second_start_does_nothing(tiny_run, tmp_path, capsys, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    grid = tmp_path / "grid.yaml"
    content = {
        "preset": "scratch",
        "schema": str(ROOT / "schema.py"),
        "outs": str(tmp_path),
        "limit": 6,
        "contexts": "dev:2",
        "evaluators": str(tiny_run),
        "cvae": {"num_train_epochs": 1},
        "models": {
            "people": {"kind": "human"},
            "ours": {"kind": "cvae", "generation": {"weights": [1, 2], "candidates": 1, "max_new_tokens": 8}},
        },
    }
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    words = [str(grid), "--executor", "local", "--job-options", "timeout_min=5"]
    assert main(words) == 0, capsys.readouterr().out
    folder = tmp_path / "experiments" / "grid"
    with open(folder / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((row["model"], row["weights"]) for row in rows) == [
        ("ours", "1"),
        ("ours", "2"),
        ("people", ""),
    ]
    assert all(float(row["nli"]) >= 0 for row in rows)
    assert not list((folder / "jobs").glob("*.outcomes.jsonl")) and not (folder / "failures.csv").exists()
    before = (folder / "results.csv").read_text()
    assert main(words) == 0 and "3 cells, 3 of them measured already" in capsys.readouterr().out
    assert (folder / "results.csv").read_text() == before
