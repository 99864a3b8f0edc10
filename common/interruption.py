"""Ending by a signal: what schedulers send (SIGTERM) and what Ctrl-C sends (SIGINT)."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "SIGINT"}


class Interrupted(KeyboardInterrupt):
    """Work that was ended by a signal, in order; the message says what is kept.

    Attributes:
        status: of the process, as shells count it: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, message: str, number: int = signal.SIGINT):
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def handled(handler: Callable[[int], None], *numbers: int) -> Iterator[None]:
    """Call `handler` with the number of each signal that comes meanwhile; other threads than the main one have no say in that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda got, _: handler(got)) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def leave(number: int) -> None:
    """End the process at once, as if the signal had not been caught."""
    os._exit(128 + number)


def ending_at_sigterm():
    """SIGTERM ends the process with status 143 after its clean-up, as Ctrl-C does with 130; a second one at once."""
    came = []

    def end(number: int) -> None:
        if came:
            leave(number)
        came.append(number)
        raise SystemExit(128 + number)

    return handled(end, signal.SIGTERM)
