"""Generate replies with chosen aspects and score them. ``bash gen_cvae.sh --target lyrical,optimistic``"""

from common.entry import prepare_libraries, run_main

prepare_libraries()

from common.options import parse_arguments  # noqa: E402
from generation.run import OPTIONS, generate  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Parse and generate; returns the exit status."""
    report = generate(*parse_arguments(OPTIONS, "generation", argv, __doc__))
    if report is not None:
        print(f"-> {report}", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
