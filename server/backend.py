"""What stands behind the application: the scheduler in this process, or in another one (`server.remote`)."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from miracle import Miracle, Reply
from server.cards import CardDials, dials_of_card
from server.jobs import Job
from server.metrics import Metrics
from server.scheduler import Capacity, Scheduler


class State(NamedTuple):
    """Whether the model's thread works, jobs in the queue, rows being written."""

    alive: bool
    waiting: int
    rows: int


class Backend(Protocol):
    """What the application asks of the model."""

    metrics: Metrics

    def start(self) -> None:
        """Begin to work; called in the event loop."""

    def end(self) -> None:
        """Jobs that are not finished fail."""

    def close(self) -> None:
        """The same, and wait for it."""

    async def submit(self, job: Job) -> None:
        """Take a job in; its listener is called from now on. Raises `Refused` as `Scheduler.submit`."""

    def cancel(self, job: Job) -> None:
        """Nobody wants this job any more."""

    async def card(self, card: object) -> CardDials:
        """A character card as dials; raises `InputError`, `Refused`."""
        ...

    async def state(self) -> State:
        """What ``GET /health`` tells."""
        ...

    async def numbers(self) -> bytes:
        """What ``GET /metrics`` tells, in Prometheus' text format."""
        ...

    def note(self, reply: Reply) -> None:
        """A reply has been delivered."""


class LocalBackend:
    """The scheduler in this process.

    Args:
        note: called with every reply that is delivered.
    """

    def __init__(self, model: Miracle, capacity: Capacity, note: Callable[[Reply], None]):
        self.metrics, self.note = Metrics(), note
        self.scheduler = Scheduler(model, capacity, self.metrics)
        self.start, self.end, self.close = self.scheduler.start, self.scheduler.end, self.scheduler.close
        self.cancel = self.scheduler.cancel

    async def submit(self, job: Job) -> None:
        """See `Backend`."""
        self.scheduler.submit(job)

    async def card(self, card: object) -> CardDials:
        """See `Backend`."""
        model = self.scheduler.model
        return await asyncio.wrap_future(self.scheduler.call(lambda: dials_of_card(card, model)))

    async def state(self) -> State:
        """See `Backend`."""
        return state_of(self.scheduler)

    async def numbers(self) -> bytes:
        """See `Backend`."""
        return self.metrics.text()


def state_of(scheduler: Scheduler) -> State:
    """A scheduler's state."""
    return State(scheduler.alive, scheduler.waiting, scheduler.rows)
