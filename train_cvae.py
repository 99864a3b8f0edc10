"""Train the conditional VAE on dialogues that are each labelled for one attribute. ``bash train_cvae.sh``"""

from common.entry import prepare_libraries, run_main

prepare_libraries()

from common.options import parse_arguments  # noqa: E402
from training.cvae import OPTIONS, train  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Parse and train; returns the exit status."""
    train(*parse_arguments(OPTIONS, "cvae", argv, __doc__))
    return 0


if __name__ == "__main__":
    run_main(main)
