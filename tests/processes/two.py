"""A stage in two processes, for the tests beside it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def together(
    stage: str, argv: list[str], ended: str | None = None, **more: str
) -> subprocess.CompletedProcess:
    """Run `quiet.py` in two processes, which share their imports (`forked.py`); `ended`: see `quiet.py`."""
    here = str(Path(__file__).parent)  # PYTHONSAFEPATH may be set
    path = os.pathsep.join([str(ROOT), here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    environment |= ({"ENDED": ended} if ended else {}) | more
    command = [sys.executable, str(Path(__file__).with_name("forked.py")), "2", stage, *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
