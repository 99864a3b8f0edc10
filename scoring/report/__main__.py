"""Write the report of a run. ``python -m scoring.report outs/demo``"""

from pathlib import Path

from common.entry import Parser, run_main
from scoring.report.run_report import write_run_report


def main(argv: list[str] | None = None) -> int:
    """Write the page and print where it is; returns the exit status."""
    parser = Parser(prog="python -m scoring.report", description="The report of a run as one HTML file.")
    parser.add_argument("run", type=Path, help="the run's folder: outs/<run>")
    parser.add_argument(
        "--output", type=Path, help="the file to write; default: report.html in the run's folder"
    )
    options = parser.parse_args(argv)
    print(f"-> {write_run_report(options.run, options.output)}", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
