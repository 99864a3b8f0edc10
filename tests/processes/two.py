"""A stage in two processes, for the tests beside it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def together(
    stage: str, argv: list[str], ended: str | None = None, **more: str
) -> subprocess.CompletedProcess:
    """Run `quiet.py` in two processes; `ended`: see there."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment |= ({"ENDED": ended} if ended else {}) | more
    program = str(Path(__file__).with_name("quiet.py"))
    command = [sys.executable, "-m", "common.launch", "2", program, stage, *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
