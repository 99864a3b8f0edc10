"""The whole main job in one go: evaluators, CVAE, replies with and without control, scores. ``bash pipeline.sh``

Options without a prefix go to every stage (--preset, --run, --schema, --base, --limit, --overwrite, --seed), or to every
training (--report-to tensorboard); a prefix names the stage: --classifier.num_train_epochs 3, --nli.pair_rounds 2, --cvae.latent_size 64, --generation.weights 20.
Finished stages with the same settings and data are not done again, and an interrupted one goes on where it was.
"""

from common.entry import prepare_libraries, quiet_transformers, run_main

prepare_libraries()

import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

from common.options import options_by_stage, parse_arguments  # noqa: E402

STAGES = ("classifier", "nli", "cvae", "generation")
TRAINING_STAGES = STAGES[:3]
TRAINING_OPTIONS = ("--report_to", "--report-to")  # tensorboard, wandb or none
COMMON_OPTIONS = (
    "--preset",
    "--run",
    "--outs",
    "--schema",
    "--base",
    "--encoder",
    "--decoder",
    "--limit",
    "--overwrite",
    "--seed",
)
SHARED = dict.fromkeys(COMMON_OPTIONS, STAGES) | dict.fromkeys(TRAINING_OPTIONS, TRAINING_STAGES)


def split_options(argv: list[str]) -> dict[str, list[str]]:
    """The command line by stage, as `common.options.options_by_stage`."""
    return options_by_stage(argv, STAGES, SHARED)


def has_work(run_folder: Path) -> bool:
    """Whether an earlier start left something in a run's folder; locks are nothing."""
    return any(path.is_file() and not path.name.startswith(".") for path in run_folder.rglob("*"))


def main(argv: list[str] | None = None) -> int:
    """Run all stages; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(
            __doc__
            + "\nThe options of a stage: bash train_classifier.sh --help, train_nli.sh, train_cvae.sh, gen_cvae.sh"
        )
        return 0
    options = split_options(argv)
    from common.devices import release_memory
    from generation import run
    from training import classifier, coherence, cvae

    quiet_transformers()
    work = {
        "attribute classifiers": (classifier.OPTIONS, classifier.train, "classifier", []),
        "coherence model": (coherence.OPTIONS, coherence.train, "nli", []),
        "CVAE": (cvae.OPTIONS, cvae.train, "cvae", []),
        "replies without control": (
            run.OPTIONS,
            run.generate,
            "generation",
            ["--name", "none", "--algorithm", "none"],
        ),
        "replies with control": (
            run.OPTIONS,
            run.generate,
            "generation",
            ["--name", "control"],
        ),  # a name that is given replaces results of other options, as the stages above do
    }
    stages: list[
        tuple[str, Callable[..., Path | None], tuple]
    ] = [  # a mistake in the last stage's options is found before the first one trains
        (name, function, parse_arguments(types, stage, [*options[stage], *words], ""))
        for name, (types, function, stage, words) in work.items()
    ]
    common = stages[0][2][0]
    before = (
        ""
        if common.overwrite or not has_work(common.run_folder)
        else " in this start; what earlier ones did is not counted"
    )
    started, report = time.monotonic(), None
    for number, (name, stage, configuration) in enumerate(stages, 1):
        print(f"\n[{number}/{len(stages)}] {name}", flush=True)
        begun = time.monotonic()
        report = stage(*configuration)
        release_memory()
        print(f"[{number}/{len(stages)}] {name}: {time.monotonic() - begun:.0f} s", flush=True)
    print(f"\nall stages: {time.monotonic() - started:.0f} s{before}", flush=True)
    if report is not None:
        print(f"-> {report}", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
