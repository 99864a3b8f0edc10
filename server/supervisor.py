"""A server of several processes: this one owns the model, the others speak HTTP (`server.http_process`).

HTTP and the model would else take turns in one interpreter. The others end with this one, however it ends, as their
channel does; where one of them ends by itself, the server ends.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from common.errors import InputError
from common.interruption import handled
from server.app import Served
from server.http_process import send_settings
from server.metrics import Metrics
from server.remote import HttpLink, HttpSettings
from server.run import announce, listen
from server.scheduler import Scheduler
from server.settle import settle

ROOT = Path(__file__).resolve().parent.parent
LAST = 10.0  # seconds that the processes have to end once all is over


class HttpProcess:
    """One process that speaks HTTP.

    Args:
        listening: its socket, which is closed here.
        changed: set where the process is ready, and where it has ended.
    """

    def __init__(
        self, listening: socket.socket, settings: HttpSettings, service: Served, scheduler: Scheduler, changed: threading.Event
    ):  # fmt: skip
        own, theirs = socket.socketpair()
        send_settings(own, settings)
        numbers = listening.fileno(), theirs.fileno()
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server.http_process", *map(str, numbers)],
            pass_fds=numbers, stdin=subprocess.DEVNULL, start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        theirs.close()
        listening.close()
        self.link = HttpLink(own, scheduler, service.note, changed.set)

    @property
    def ended(self) -> str:
        """How it ended; "" while it works."""
        status = self.process.poll()
        if status is None:
            return ""
        return f"status {status}" if status >= 0 else f"signal {-status}"

    def end(self) -> None:
        """End it, if it has not."""
        self.link.close()
        try:
            self.process.wait(LAST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def listening_sockets(host: str, port: int, count: int) -> list[socket.socket]:
    """Sockets of one address, among which the kernel divides the connections.

    Raises:
        InputError: where the address cannot be used.
    """
    made = [listen(host, port)]  # alone, so that an address in use is refused
    made[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    for _ in range(count - 1):
        made.append(listen(host, made[0].getsockname()[1], shared=True))
    return made


def serve_in_processes(service: Served, host: str, port: int, grace: float, count: int) -> None:
    """Serve by so many processes that speak HTTP until a signal ends it, which is then raised again.

    Raises:
        InputError: where the address cannot be used, or a process does not start.
        SystemExit: where one of them ended by itself.
    """
    settle()
    listening, settings = listening_sockets(host, port, count), HttpSettings.of(service, grace)
    port = listening[0].getsockname()[1]
    scheduler = Scheduler(service.model, service.capacity, Metrics())
    signals: list[int] = []
    changed = threading.Event()

    def on_signal(number: int) -> None:
        signals.append(number)
        changed.set()

    scheduler.start()
    processes: list[HttpProcess] = []
    try:
        with handled(on_signal, signal.SIGTERM, signal.SIGINT):
            for one in listening:
                processes.append(HttpProcess(one, settings, service, scheduler, changed))
            _watch(processes, signals, changed, lambda: announce(service.name, host, port))
    finally:
        scheduler.end()
        for process in processes:
            process.end()
        scheduler.close()
    if signals:
        signal.raise_signal(signals[0])
        raise SystemExit(128 + signals[0])  # where the signal is ignored


def _watch(processes: list[HttpProcess], signals: list[int], changed: threading.Event, say_ready) -> None:
    """Until all have ended after a signal; signals are passed on."""
    ready, passed_on = False, 0
    while True:
        if not signals and (ended := [process.ended for process in processes if process.ended]):
            if not ready:
                raise InputError(
                    f"a process that speaks HTTP did not start ({ended[0]}; what it said is above)"
                )
            raise SystemExit(
                f"error: a process that speaks HTTP ended by itself ({ended[0]}); the server ends"
            )
        if not ready and all(process.link.ready for process in processes):
            ready = True
            say_ready()
        for _ in signals[passed_on:]:
            passed_on += 1
            for process in processes:
                process.link.drain() if process.link.ready else process.link.close()
        if signals and all(process.ended for process in processes):
            return
        changed.wait(0.2)  # a process may end without a word
        changed.clear()
