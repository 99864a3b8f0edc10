"""The process: uvicorn around the application, and how it ends in order."""

import json
import socket
import time

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.errors import InputError
from server.app import Served, make_app
from server.errors import Refused
from server.guards import Guards
from server.settle import settle

LINGER = 5  # seconds for connections to close once everything is answered


class Protocol(H11Protocol):
    """HTTP whose own refusals, of what is no request, have OpenAI's shape too."""

    def send_400_response(self, msg: str) -> None:
        """Refuse, and close the connection."""
        body = json.dumps(Refused(msg).body).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class DrainingServer(uvicorn.Server):
    """At SIGTERM or SIGINT the requests under way are finished and new ones get 503; at a second signal they end with
    an error, and a third waits for nobody.

    Args:
        grace: seconds after which the requests under way are given up: they end with an error.
    """

    def __init__(self, config: uvicorn.Config, guards: Guards, grace: float):
        super().__init__(config)
        self.guards, self.grace = guards, grace
        self._ends: float | None = None

    def handle_exit(self, sig: int, frame) -> None:
        """What a signal does."""
        self._captured_signals.append(sig)
        self.drain()

    def drain(self) -> None:
        """What the first, second and third signal do; from any thread."""
        if self.guards.draining:
            if self._ends == 0.0:
                self.should_exit = self.force_exit = True
            self._ends = 0.0
            return
        self.guards.draining = True
        self._ends = time.monotonic() + self.grace

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; True ends the server."""
        if self._ends is not None and (self.guards.under_way == 0 or time.monotonic() > self._ends):
            self.guards.give_up()
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """A socket that can listen; raises `InputError` where the address cannot be used.

    Args:
        shared: with others that say so too.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        made.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:  # the last: of a name with an empty part
        made.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{host} port {port} cannot be used: {reason}; name another with --port") from None
    return made


def configured(guards: Guards, **changes: object) -> uvicorn.Config:
    """uvicorn's settings."""
    settings: dict = {
        "log_level": "warning", "access_log": False, "server_header": False, "date_header": False, "proxy_headers": False,
        "timeout_graceful_shutdown": LINGER, "timeout_keep_alive": 30, "http": Protocol,
        "h11_max_incomplete_event_size": 32 * 1024, "limit_concurrency": None, "ws": "none", "lifespan": "on",
    }  # fmt: skip
    return uvicorn.Config(guards, **settings | changes)


def announce(name: str, host: str, port: int) -> None:
    """Say where the server is."""
    shown = f"[{host}]" if ":" in host else host
    print(f"{name}: http://{shown}:{port}/v1  (Ctrl-C ends it)", flush=True)


def serve(service: Served, host: str, port: int, grace: float) -> None:
    """Serve until a signal ends it, which is then raised again, so that the exit status tells of it.

    Raises:
        InputError: where the address cannot be used.
    """
    settle()
    made, guards = listen(host, port), make_app(service)
    announce(service.name, host, made.getsockname()[1])
    try:
        DrainingServer(configured(guards), guards, grace).run(sockets=[made])
    finally:
        guards.close()  # after a third signal too: a process that ends under the model's thread aborts
