"""One process at a time: what two starts of the same work would break."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError
from common.processes import by_first


@contextmanager
def exclusive(place: Path, what: str) -> Iterator[None]:
    """Work on a file or folder that no other process works on meanwhile; the lock ends with the process, however it ends.

    Several processes of one work (`common.processes`) are one worker: the first of them holds the lock.

    Raises:
        InputError: where another process holds it.
    """
    lock = FileLock(place.with_name(f".{place.name}.lock"))

    def take() -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{what}: another process is at work on {place}; wait for it to end, or choose another --run"
            ) from None

    by_first(take)
    try:
        yield
    finally:
        lock.release()
