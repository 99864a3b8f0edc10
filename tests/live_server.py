"""A server of a run trained for seconds, on loopback, in this process."""

import contextlib
import os
import pickle
import socket
import threading
import time
from dataclasses import replace

import httpx
import pytest

LINKED = bool(os.environ.get("MIRACLE_TEST_LINKED"))  # all tests of a server as with --http-processes 1
QUESTION = "My bread did not rise. What shall I do?"


class Gate:
    """Steps wait while it is closed, so that a test can look at requests under way."""

    def __init__(self, batch_class):
        self._open, self._step, self.passed = threading.Event(), batch_class.step, 0
        self._open.set()

    def step(self, batch) -> None:
        assert self._open.wait(60)
        self.passed += 1
        self._step(batch)

    @contextlib.contextmanager
    def closed(self):
        """Closed within."""
        self._open.clear()
        try:
            yield self
        finally:
            self._open.set()


class Live:
    """A server that runs.

    Attributes:
        url: up to ``/v1``; model: what it serves; guards, scheduler: its parts.
    """

    def __init__(self, service, server, port, guards):
        self.model, self.service, self.server, self.guards = service.model, service, server, guards
        self.root, self.url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/v1"

    def post(self, path="/chat/completions", timeout=120, headers=None, **body) -> httpx.Response:
        """A request as any program would send it."""
        return httpx.post(self.url + path, json=body, timeout=timeout, headers=headers)

    def ask(self, text=QUESTION, **fields) -> httpx.Response:
        """A question."""
        return self.post(messages=[{"role": "user", "content": text}], **fields)

    def numbers(self) -> dict[str, float]:
        """The metrics."""
        lines = httpx.get(self.root + "/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}

    def wait_until(self, true, seconds=60) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not come true"
            time.sleep(0.01)


def application(service, linked, stack):
    """A `Served` as an application: by itself, or linked by a channel to a scheduler that it knows nothing else of."""
    from server.app import make_app
    from server.metrics import Metrics
    from server.remote import HttpLink, HttpSettings, RemoteBackend
    from server.scheduler import Scheduler

    if not linked:
        return make_app(service)
    (own, theirs), lost = socket.socketpair(), []
    scheduler = Scheduler(service.model, service.capacity, Metrics())
    scheduler.start()
    link = HttpLink(own, scheduler, service.note)
    stack.callback(scheduler.close)
    stack.callback(link.close)
    settings = pickle.loads(pickle.dumps(HttpSettings.of(service, 5.0)))
    return make_app(settings.service(), RemoteBackend(theirs, lambda: None, lambda: lost.append(True)))


@contextlib.contextmanager
def running(service, linked=False):
    """A `Live` server of a `Served`; `linked`: see `application`."""
    with contextlib.ExitStack() as stack:
        yield from _running(service, application(service, linked or LINKED, stack))


def _running(service, guards):
    from server.run import DrainingServer, configured, listen

    listening = listen("127.0.0.1", 0)
    config = configured(guards, log_level="critical", timeout_graceful_shutdown=2)
    server = DrainingServer(config, guards, 5.0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    live = Live(service, server, listening.getsockname()[1], guards)
    live.wait_until(lambda: server.started)
    try:
        yield live
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@pytest.fixture(scope="session")
def served_model(tiny_run):
    """The run, with one candidate and short replies unless a request says otherwise."""
    from miracle import Miracle

    model = Miracle.from_run(tiny_run, "cpu")
    model.control = replace(model.control, candidates=1)
    model.decoding = replace(model.decoding, max_new_tokens=12)
    return model


@pytest.fixture
def gate(monkeypatch):
    """A `Gate` in front of every step."""
    from server.slots import RowBatch

    made = Gate(RowBatch)
    monkeypatch.setattr(RowBatch, "step", lambda batch: made.step(batch))
    return made


@pytest.fixture
def serve_with(served_model):
    """Starts a server with other settings; it ends with the test."""
    from server.app import Served
    from server.scheduler import Capacity

    with contextlib.ExitStack() as stack:
        yield lambda capacity=None, **changes: stack.enter_context(
            running(Served(served_model, "r", capacity or Capacity(32), **changes))
        )


@pytest.fixture(scope="module")
def live(served_model):
    """A server with ordinary settings."""
    from server.app import Served
    from server.scheduler import Capacity

    with running(Served(served_model, "r", Capacity(32))) as found:
        yield found
