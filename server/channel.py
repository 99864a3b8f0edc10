"""Messages between two processes of the server, in both directions, as many at a time as there are.

What is sent wakes a thread of the other process, which takes its turn from those that work there: so messages go at most
once in `PAUSE`, all that have come since together.
"""

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

PAUSE = 0.008  # seconds; a step of many rows takes longer

Message = tuple[Any, ...]  # what it is, and what belongs to it


class Channel:
    """One end. Messages arrive in the order in which they were sent.

    Args:
        end: of a pair of connected sockets, which is the channel's from now on.
        receive: called with the messages that have arrived, by a thread of the channel.
        gone: called once, by that thread, where the other end has been closed, or its process has ended.
    """

    def __init__(
        self, end: socket.socket, receive: Callable[[list[Message]], None], gone: Callable[[], None]
    ):
        self._socket, self._receive, self._gone = end, receive, gone
        self._connection = Connection(os.dup(end.fileno()))
        self._waiting: list[Message] = []
        self._changed, self._closing = threading.Condition(), False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]

    def start(self) -> None:
        """Begin to send and to receive."""
        for thread in self._threads:
            thread.start()

    def send(self, *message: object) -> None:
        """Send a message soon, together with others; from any thread, and without waiting."""
        with self._changed:
            self._waiting.append(message)
            self._changed.notify()

    def close(self) -> None:
        """End after what has been sent; the other end's `gone` is called."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _write(self) -> None:
        sent = 0.0
        while True:
            with self._changed:
                while not (self._waiting or self._closing):
                    self._changed.wait()
            time.sleep(max(0.0, sent + PAUSE - time.monotonic()))  # others may come meanwhile
            with self._changed:
                messages, self._waiting = self._waiting, []
            if not messages:
                break
            sent = time.monotonic()
            try:
                self._connection.send_bytes(pickle.dumps(messages, pickle.HIGHEST_PROTOCOL))
            except OSError:
                break  # the reader sees it too, and says so
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is gone

    def _read(self) -> None:
        while True:
            try:
                messages = pickle.loads(self._connection.recv_bytes())
            except (EOFError, OSError):
                break
            self._receive(messages)
        self.close()
        self._gone()
