"""One process at a time: what two starts of the same work would break."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError


@contextmanager
def exclusive(place: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Work on a file or folder that no other process works on meanwhile; the lock ends with the process, however it ends.

    The processes of one training (``torchrun``) are one worker: the first of them holds the lock.

    Args:
        wait: until another process that holds it is done, instead of the error.

    Raises:
        InputError: where another process holds it.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise InputError(
            f"{what}: another process is at work on {place}; wait for it to end, or choose another --run"
        ) from None
    try:
        yield
    finally:
        lock.release()
