"""Fetch the paper's released data set to where the paper preset looks for it, then check it. bash scripts/download_data.sh

Says first what it will take of the disk. An interrupted download goes on where it was; files that are already complete
are not fetched again. HF_ENDPOINT and HF_TOKEN are honoured, as in every tool of the hub.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # python scripts/download_data.py works, as -m does

import argparse  # noqa: E402
import hashlib  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url  # noqa: E402
from huggingface_hub.constants import ENDPOINT  # noqa: E402
from huggingface_hub.errors import HfHubHTTPError  # noqa: E402
from huggingface_hub.file_download import http_get  # noqa: E402
from huggingface_hub.utils import build_hf_headers  # noqa: E402
from huggingface_hub.utils import logging as hub_logging  # noqa: E402

from dataset.network import hub_mistake  # noqa: E402
from dataset.sources import sources_of  # noqa: E402
from schema import InputError, Schema, load_schema  # noqa: E402
from scripts import check_data  # noqa: E402
from scripts.entry import Parser, run_main  # noqa: E402

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
        raise InputError(f"{schema.path}: the files lie in {len(folders)} folders; a release is fetched into one")
    return folders.pop(), [path.name for path in paths]


@contextmanager
def one_line(what: str, folder: Path) -> Iterator[None]:
    """Turn the hub's errors about `what` into an `InputError` of one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise InputError(f"{what} cannot be had from the hub (status {status}); a private or gated one needs HF_TOKEN") from error
    except InputError:
        raise
    except Exception as error:  # no network: the hub's library raises its own errors and those of its HTTP client
        if mistake := hub_mistake(error):
            raise InputError(f"the hub cannot be reached for {what}: {mistake}") from error
        if not is_network_error(error):
            raise
        raise InputError(
            f"the hub cannot be reached for {what} ({type(error).__name__}); with a network the same command goes on, "
            f"or put the files into {folder} by hand"
        ) from error


def is_network_error(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, is about the connection."""
    while error is not None:
        if isinstance(error, (ConnectionError, TimeoutError)) or type(error).__name__ in NETWORK_ERRORS:
            return True
        error = error.__cause__ or error.__context__
    return False


NETWORK_ERRORS = (
    "ConnectError", "ConnectTimeout", "ReadTimeout", "ReadError", "RemoteProtocolError", "ProxyError", "OfflineModeIsEnabled", "LocalEntryNotFoundError",
)  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """A file on the hub, and where it goes."""

    name: str
    folder: Path
    size: int
    etag: str
    location: str  # after redirects; a mirror or a storage server of its own

    @property
    def path(self) -> Path:
        """The file when it is complete."""
        return self.folder / self.name

    @property
    def partial(self) -> Path:
        """What has come so far; named after the content, so that another revision does not go on from it."""
        return self.folder / f".{self.name}.{hashlib.sha256(self.etag.encode()).hexdigest()[:12]}.partial"

    def is_here(self) -> bool:
        """Whether the file is complete: its size, and its content where the hub gives a SHA-256 (its large files)."""
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            return False
        return not re.fullmatch("[0-9a-f]{64}", self.etag) or sha256(self.path) == self.etag

    def missing(self) -> int:
        """Bytes still to be fetched."""
        return 0 if self.is_here() else self.size - (self.partial.stat().st_size if self.partial.is_file() else 0)

    def fetch(self) -> None:
        """Fetch what is missing, with the hub's own retries, and put the file in place once its content is right."""
        self.folder.mkdir(parents=True, exist_ok=True)
        own = urlsplit(self.location).netloc == urlsplit(ENDPOINT).netloc  # a token is for the hub, not for its storage
        with open(self.partial, "ab") as out:
            headers = build_hf_headers() if own else {}
            http_get(self.location, out, resume_size=out.tell(), headers=headers, expected_size=self.size, displayed_filename=self.name)
        if re.fullmatch("[0-9a-f]{64}", self.etag) and sha256(self.partial) != self.etag:
            self.partial.unlink()
            raise InputError(f"{self.name}: what came is not what the hub announced; the same command fetches it again")
        self.partial.replace(self.path)


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--schema", default=str(SCHEMA), help="schema that names the files (default: schema_paper.py)")
    options.add_argument("--repository", default=REPOSITORY, help=f"data set on the hub (default: {REPOSITORY})")
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
            found = get_hf_file_metadata(hf_hub_url(options.repository, name, repo_type="dataset", revision=commit), timeout=20)
        files.append(Remote(name, folder, found.size or 0, found.etag or "", found.location))
    wanted = [(file, missing) for file in files if (missing := file.missing()) or not file.path.is_file()]
    size = sum(missing for _, missing in wanted)
    parent = next(path for path in [folder, *folder.parents] if path.exists())
    free = shutil.disk_usage(parent).free
    print(f"{options.repository} at {commit[:12]}: {len(files)} files, {len(files) - len(wanted)} already here")
    print(f"to fetch: {size / MEGABYTE:.1f} MB into {folder}, where {free / MEGABYTE:.0f} MB are free", flush=True)
    if options.dry_run:
        for file, missing in wanted:
            print(f"  {file.name}  {missing / MEGABYTE:.1f} of {file.size / MEGABYTE:.1f} MB")
        return 0
    if size > free:
        raise InputError(f"{size / MEGABYTE:.0f} MB are needed and {free / MEGABYTE:.0f} MB are free in {parent}")
    for file, _ in wanted:
        with one_line(f"{options.repository}/{file.name}", folder):
            file.fetch()
    print(f"all {len(names)} files are in {folder}", flush=True)
    return 0 if options.no_check else check_data.main(["--schema", str(schema.path)])


if __name__ == "__main__":
    run_main(main)
