"""A folder that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError


def check_outside(folder: Path, source: Path) -> None:
    """Raises `InputError` for a folder that a copy is to go to and that lies in what is copied."""
    if Path(source).resolve() in (folder.resolve(), *folder.resolve().parents):
        raise InputError(
            f"{folder} lies in {source}, which would be copied into itself; name a folder elsewhere"
        )


@contextmanager
def appearing_whole(folder: Path) -> Iterator[Path]:
    """A work folder beside a new or empty one; what was written to it is moved there when all is done.

    Work that is ended leaves the folder as it was, and the next start clears away what lies beside it.
    """
    folder = Path(os.path.abspath(folder))
    work = folder.parent / f"{folder.name}.partial"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    if not folder.is_dir():
        work.rename(folder)
        return
    for path in work.iterdir():  # the empty folder itself stays: somebody may be in it
        path.rename(folder / path.name)
    work.rmdir()
