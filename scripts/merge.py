"""Make one whole checkpoint of adapters and the bases that they stand on.

python -m scripts.merge outs/chat outs/merged
"""

import argparse
import shutil
from pathlib import Path

from common.entry import Parser, run_main
from common.errors import InputError
from common.folders import appearing_whole, check_outside
from common.jsonl import read_json
from common.locks import exclusive
from generation.loading import load_cvae
from generation.sharing import record_hash, run_parts


def merge(source: Path, folder: Path) -> Path:
    """Write a run, or a ``cvae/`` alone, with its adapters added to the weights; evaluators and results are copied as they are.

    Args:
        source: a run's folder, a release, or a ``cvae/``.
        folder: a new one.

    Returns:
        `folder`.

    Raises:
        InputError: where `folder` holds something, or the source has no adapters.
    """
    run, cvae = run_parts(source)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something already; name a new folder")
    check_outside(folder, run or cvae)
    if not read_json(cvae / "config.json").get("lora_rank"):
        raise InputError(f"{cvae} is whole already: it has no adapters")
    model = load_cvae(cvae)
    model.merge()
    with appearing_whole(folder) as work:
        target = work / "cvae" if run else work
        shutil.copytree(
            run or cvae, work, ignore=shutil.ignore_patterns("*.partial", "*.lock"), dirs_exist_ok=True
        )
        (target / "model.safetensors").unlink()
        model.save_pretrained(target)
        record_hash(target)
    return folder


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("source", type=Path, help="a run's folder, a release, or a cvae/ alone")
    options.add_argument("folder", type=Path, help="a new folder")
    return options


def main(argv: list[str] | None = None) -> int:
    """Merge; returns the exit status."""
    options = parser().parse_args(argv)
    with exclusive(options.folder, "merging", "name another folder"):
        print(f"-> {merge(options.source, options.folder)}")
    return 0


if __name__ == "__main__":
    run_main(main)
