"""Processes that measure together load the evaluators; one that is alone trains what is missing."""

from pathlib import Path
from types import SimpleNamespace

import torch

from experiments import evaluators as module
from experiments.evaluators import Evaluators


def test_only_a_process_that_is_alone_looks_at_the_trainings(monkeypatch):
    """Looking takes a lock, and five workers that look at the same time find four times that another is at work."""
    run = []
    monkeypatch.setattr(
        module, "trainings", lambda grid, common: [SimpleNamespace(run=lambda: run.append(1))]
    )
    monkeypatch.setattr(module, "Scorer", lambda *_, **__: SimpleNamespace(records={}, warnings=list))
    monkeypatch.setattr(module, "language_model_of", lambda *_: None)
    monkeypatch.setattr(module, "labelled", lambda *_: [])
    grid = SimpleNamespace(
        evaluators=None, folder=Path(), second_evaluators=None, second_encoder=None, mauve=False
    )
    monkeypatch.setattr(module, "folder_name", lambda *_: "evaluators")
    plan = SimpleNamespace(grid=grid, schema=None, common=None, what=None)
    Evaluators(plan, torch.device("cpu"), trained=True)
    assert not run
    Evaluators(plan, torch.device("cpu"))
    assert run == [1]
