"""A file that is there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

DEVICES = Path("/dev")


@contextmanager
def replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """A file to write to, which takes the place of `path` once all of it is on disk.

    Work that is ended, by an error or from outside, leaves what was there. What is no file, such as ``/dev/stdout``, is
    written to itself. Folders that are missing are made.

    Args:
        mode: ``w``, in UTF-8, or ``wb``.
        options: of `open`.
    """
    path = Path(path)
    if "b" not in mode:
        options = {"encoding": "utf-8"} | options
    if path.parent == DEVICES or (path.exists() and not path.is_file()):
        with open(path, mode, **options) as out:
            yield out
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".partial")
    try:
        with open(unfinished, mode, **options) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.replace(path)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's content; `path` is replaced once all of it is there."""
    with open(source, "rb") as content, replacing(path, "wb") as out:
        shutil.copyfileobj(content, out)
