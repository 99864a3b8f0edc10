"""Recorded training steps of two processes are those of unrecorded ones, where there are two GPUs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two import ROOT

PROGRAM = Path(__file__).with_name("recorded_steps.py")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize(("size", "loss", "weight"), [("tiny", 0.0, 0.0), ("chat", 3e-3, 5e-4)])
def test_recorded_steps_are_the_plain_ones(size, loss, weight):
    """`chat` computes in bf16, whose sums a graph may take in another order; both processes hold the same weights."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "common.launch", "2", str(PROGRAM), size]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["graphs"] == 2 and not found["apart"]
    assert max(abs(recorded - plain) for recorded, plain in found["losses"]) <= loss
    assert found["weights"] <= weight
