"""One process at a time: what two starts of the same work would break."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError


@contextmanager
def exclusive(place: Path, what: str, otherwise: str = "choose another --run") -> Iterator[None]:
    """Work on a file or folder that no other process works on meanwhile; the lock ends with the process, however it ends.

    The processes of one training (``torchrun``) are one worker: the first of them holds the lock.

    Args:
        otherwise: what there is to do but wait.

    Raises:
        InputError: where another process holds it.
    """
    if int(os.environ.get("RANK", "0")) > 0:
        yield
        return
    folder, name = os.path.split(os.path.abspath(place))
    os.makedirs(folder, exist_ok=True)
    lock = FileLock(os.path.join(folder, f".{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{what}: another process is at work on {place}; wait for it to end, or {otherwise}"
        ) from None
    try:
        yield
    finally:
        lock.release()
