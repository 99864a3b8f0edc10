"""A process that speaks HTTP for a server whose model another process owns; `server.supervisor` starts it.

``python -m server.http_process LISTENING CHANNEL``: two sockets, by their numbers.
"""

import os
import pickle
import socket
import sys
from multiprocessing.connection import Connection

from common.entry import prepare_libraries

prepare_libraries()

from server.app import make_app  # noqa: E402
from server.remote import HttpSettings, RemoteBackend  # noqa: E402
from server.run import DrainingServer, configured  # noqa: E402
from server.settle import SWITCH  # noqa: E402

LOST = 75  # exit status where the process that owns the model has ended


class HttpServer(DrainingServer):
    """A server that signals do not end, but the process that owns the model: they may come to all of them at once."""

    backend: RemoteBackend

    def handle_exit(self, sig: int, frame) -> None:
        """A signal's work is the other process's."""

    async def startup(self, sockets=None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.backend.ready()


def main(argv: list[str]) -> int:
    """Answer requests until the other process says that it is over, or is gone."""
    sys.setswitchinterval(SWITCH)
    listening, end = (socket.socket(fileno=int(number)) for number in argv)
    settings: HttpSettings = receive_settings(end)
    backend = RemoteBackend(end, lambda: server.drain(), lambda: os._exit(LOST))
    guards = make_app(settings.service(), backend)
    server = HttpServer(configured(guards), guards, settings.grace)
    server.backend = backend
    server.run(sockets=[listening])
    os._exit(0)  # the channel's threads are at work


def send_settings(end: socket.socket, settings: HttpSettings) -> None:
    """What a new process is told first."""
    connection = Connection(os.dup(end.fileno()))
    connection.send_bytes(pickle.dumps(settings))
    connection.close()


def receive_settings(end: socket.socket) -> HttpSettings:
    """What this process is told first; ends it where the other one is gone."""
    connection = Connection(os.dup(end.fileno()))
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        sys.exit(LOST)
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
