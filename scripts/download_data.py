"""Fetch the paper's released data set to where the paper preset looks for it, then check it. bash scripts/download_data.sh

Says first what it will take of the disk. An interrupted download goes on where it was; files that are already complete
are not fetched again. HF_ENDPOINT and HF_TOKEN are honoured, as in every tool of the hub.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # python scripts/download_data.py works, as -m does

import argparse
import shutil

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import logging as hub_logging

from common.entry import Parser, run_main
from common.errors import InputError
from common.hub_files import Remote, one_line
from common.schema import Schema, load_schema
from dataset.sources import sources_of

REPOSITORY = "lu-vae/Miracle-Conversation"
SCHEMA = Path(__file__).resolve().parent.parent / "schema_paper.py"
MEGABYTE = 1e6


def folder_of(schema: Schema) -> tuple[Path, list[str]]:
    """The one folder that all files of a schema lie in, and their names.

    Raises:
        InputError: where they lie in several folders.
    """
    paths = [source.path for source in sources_of(schema)]
    folders = {path.parent for path in paths}
    if len(folders) != 1:
        raise InputError(
            f"{schema.path}: the files lie in {len(folders)} folders; a release is fetched into one"
        )
    return folders.pop(), [path.name for path in paths]


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--schema", default=str(SCHEMA), help="schema that names the files (default: schema_paper.py)"
    )
    options.add_argument(
        "--repository", default=REPOSITORY, help=f"data set on the hub (default: {REPOSITORY})"
    )
    options.add_argument("--revision", default="main", help="branch, tag or commit (default: main)")
    options.add_argument("--dry-run", action="store_true", help="say what would be fetched, and stop")
    options.add_argument("--no-check", action="store_true", help="do not run check_data.py afterwards")
    return options


def main(argv: list[str] | None = None) -> int:
    """Fetch and check; returns the checker's status."""
    options = parser().parse_args(argv)
    hub_logging.set_verbosity_error()  # its retries; what they end in is said in one line
    schema = load_schema(options.schema)
    folder, names = folder_of(schema)
    with one_line(options.repository, folder):
        commit = HfApi().dataset_info(options.repository, revision=options.revision, timeout=20).sha
    files = []
    for name in names:
        with one_line(f"{options.repository}/{name}", folder):
            metadata = get_hf_file_metadata(
                hf_hub_url(options.repository, name, repo_type="dataset", revision=commit), timeout=20
            )
        files.append(Remote(name, folder, metadata.size or 0, metadata.etag or "", metadata.location))
    wanted = [(file, missing) for file in files if (missing := file.missing()) or not file.path.is_file()]
    size = sum(missing for _, missing in wanted)
    parent = next(path for path in [folder, *folder.parents] if path.exists())
    free = shutil.disk_usage(parent).free
    print(
        f"{options.repository} at {commit[:12]}: {len(files)} files, {len(files) - len(wanted)} already here"
    )
    print(
        f"to fetch: {size / MEGABYTE:.1f} MB into {folder}, where {free / MEGABYTE:.0f} MB are free",
        flush=True,
    )
    if options.dry_run:
        for file, missing in wanted:
            print(f"  {file.name}  {missing / MEGABYTE:.1f} of {file.size / MEGABYTE:.1f} MB")
        return 0
    if size > free:
        raise InputError(
            f"{size / MEGABYTE:.0f} MB are needed and {free / MEGABYTE:.0f} MB are free in {parent}"
        )
    for file, _ in wanted:
        with one_line(f"{options.repository}/{file.name}", folder):
            file.fetch()
    print(f"all {len(names)} files are in {folder}", flush=True)
    if options.no_check:
        return 0
    from scripts import check_data  # and its libraries: what is fetched, or cannot be, is said without them

    return check_data.main(["--schema", str(schema.path)])


if __name__ == "__main__":
    run_main(main)
