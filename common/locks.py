"""One process at a time: what two starts of the same work would break."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError
from common.processes import by_first


@contextmanager
def exclusive(
    place: Path, what: str, otherwise: str = "choose another --run", wait: bool = False
) -> Iterator[None]:
    """Work on a file or folder that no other process works on meanwhile; the lock ends with the process, however it ends.

    Several processes of one work (`common.processes`) are one worker: the first of them holds the lock.

    Args:
        otherwise: what there is to do but wait.
        wait: until another process that holds it is done, instead of the error.

    Raises:
        InputError: where another process holds it.
    """
    folder, name = os.path.split(os.path.abspath(place))
    lock = FileLock(os.path.join(folder, f".{name}.lock"))

    def take() -> None:
        os.makedirs(folder, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise InputError(
                f"{what}: another process is at work on {place}; wait for it to end, or {otherwise}"
            ) from None

    by_first(take)
    try:
        yield
    finally:
        lock.release()
