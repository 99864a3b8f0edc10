"""The training of a stage without noise, as one of several processes, for `test_training.py`. ``python quiet.py cvae --limit 7``

ENDED="1 2 9": process 1 sends itself signal 9 in its second step, before it computes; ENDED="launcher 2 15": the first
process sends signal 15 to the launcher.
"""

import os
import sys

from common import processes
from common.entry import prepare_libraries, run_main

prepare_libraries()

import torch  # noqa: E402

from common.options import parse_arguments  # noqa: E402
from training import classifier, coherence, cvae  # noqa: E402
from training.trainer import StageTrainer  # noqa: E402

STAGES = {"classifier": classifier, "nli": coherence, "cvae": cvae}


def ending(who: str, step: str, number: str) -> None:
    """Let a process be ended in a step."""
    compute, seen = StageTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        seen.append(1)
        if len(seen) == int(step) and processes.rank() == (0 if who == "launcher" else int(who)):
            os.kill(os.getppid() if who == "launcher" else os.getpid(), int(number))
        return compute(self, *args, **kwargs)

    StageTrainer.training_step = training_step


def main(argv: list[str] | None = None) -> int:
    """Train the stage that the first word names."""
    stage, *words = sys.argv[1:]
    torch.randn_like = torch.zeros_like
    if "ENDED" in os.environ:
        ending(*os.environ["ENDED"].split())
    STAGES[stage].train(*parse_arguments(STAGES[stage].OPTIONS, stage, words, ""))
    return 0


if __name__ == "__main__":
    run_main(main)
