"""A stage without noise in training, as one of several processes, for the tests beside it. ``python quiet.py cvae --limit 7``

ENDED="1 2 9": process 1 sends itself signal 9 in its second step, before it computes; ENDED="launcher 2 15": the first
process sends signal 15 to the launcher. A generation is ended behind its second part in the same way.
"""

import os
import sys

from common import processes
from common.entry import prepare_libraries, run_main

prepare_libraries()

import torch  # noqa: E402

import scoring.score  # noqa: E402
from common.options import parse_arguments  # noqa: E402
from common.parts import SharedParts  # noqa: E402
from generation import run  # noqa: E402
from training import classifier, coherence, cvae  # noqa: E402
from training.trainer import StageTrainer  # noqa: E402

STAGES = {
    "classifier": (classifier.OPTIONS, classifier.train),
    "nli": (coherence.OPTIONS, coherence.train),
    "cvae": (cvae.OPTIONS, cvae.train),
    "generation": (run.OPTIONS, run.generate),
}


def ending(who: str, step: str, number: str) -> None:
    """Let a process be ended in a step, or behind a part."""
    seen = []

    def count() -> None:
        seen.append(1)
        if len(seen) == int(step) and processes.rank() == (0 if who == "launcher" else int(who)):
            os.kill(os.getppid() if who == "launcher" else os.getpid(), int(number))

    compute, close = StageTrainer.training_step, SharedParts.close_part
    StageTrainer.training_step = lambda *args, **kwargs: (count(), compute(*args, **kwargs))[1]
    SharedParts.close_part = lambda *args: (close(*args), count())[0]


def main(argv: list[str] | None = None) -> int:
    """Do the stage that the first word names."""
    stage, *words = sys.argv[1:]
    torch.randn_like = torch.zeros_like
    if "RECORDED" in os.environ:  # on a CPU the same steps without graphs
        cvae.can_record = lambda arguments: True
    if "ENDED" in os.environ:
        ending(*os.environ["ENDED"].split())
    scoring.score.SMALLEST = 4
    options, work = STAGES[stage]
    work(*parse_arguments(options, stage, words, ""))
    return 0


if __name__ == "__main__":
    run_main(main)
