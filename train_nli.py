"""Train the coherence (NLI) model that says whether a reply fits its context. ``bash train_nli.sh``"""

from common.entry import prepare_libraries, run_main

prepare_libraries()

from common.options import parse_arguments  # noqa: E402
from training.coherence import OPTIONS, train  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Parse and train; returns the exit status."""
    train(*parse_arguments(OPTIONS, "nli", argv, __doc__))
    return 0


if __name__ == "__main__":
    run_main(main)
