"""Share a trained run: as a folder, or in a repository of the Hugging Face hub.

    python -m scripts.share outs/demo --folder shared/demo
    python -m scripts.share outs/demo --to user/name --private      # after `hf auth login`

What is shared is what a reply needs, with a model card: the CVAE, its tokenizers, and where they are there the evaluators and
``results.json``. `miracle.Miracle.from_pretrained` loads it.
"""

import argparse
from pathlib import Path

from common.entry import Parser, run_main
from common.locks import exclusive
from generation.sharing import push_run, save_run


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="the run's folder, outs/<run>, or its cvae/ alone")
    where = options.add_mutually_exclusive_group(required=True)
    where.add_argument("--to", metavar="USER/NAME", help="repository of the hub; made where there is none")
    where.add_argument("--folder", type=Path, help="a new folder")
    options.add_argument(
        "--private",
        action="store_true",
        default=None,
        help="of a new repository: only for you (default: the hub's, mostly public)",
    )
    options.add_argument(
        "--compact",
        action="store_true",
        help="with --folder: adapters in fp16, without the tokenizers that their bases have",
    )
    options.add_argument("--license", help="for the card: mit, apache-2.0, cc-by-4.0, ...")
    return options


def main(argv: list[str] | None = None) -> int:
    """Save or upload; returns the exit status."""
    options = parser().parse_args(argv)
    if options.to is not None:
        print(f"-> {push_run(options.run, options.to, options.private, license=options.license)}")
    else:
        with exclusive(options.folder, "sharing", "name another --folder"):
            folder = save_run(options.run, options.folder, license=options.license, compact=options.compact)
        print(f"-> {folder}")
    return 0


if __name__ == "__main__":
    run_main(main)
