"""The application and the scheduler in two processes: what each sends the other (`server.channel`).

The process that speaks HTTP reads requests and writes answers, the other one owns the model. What is sent is what both
have in common: jobs without their candidates, events, counts. Every request has a number, which is its answer's too.
"""

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from generation.options import ControlArguments, DecodingArguments
from miracle import Miracle, Reply
from server.app import Served
from server.backend import State, state_of
from server.cards import CardDials, dials_of_card
from server.channel import Channel, Message
from server.errors import Refused, as_refused
from server.guards import Bounds
from server.jobs import Event, Failed, Finished, Job, job_of, order_of
from server.metrics import Metrics
from server.scheduler import Capacity, Scheduler

logger = logging.getLogger(__name__)

COUNTS_WITHIN = 0.2  # seconds in which the other process learns of what was counted


@dataclass(frozen=True)
class HttpSettings:
    """What a process that speaks HTTP needs to know of a `Served`, without its model.

    Attributes:
        attributes, control, decoding, positions: of the model.
        warnings: of its coherence evaluator; None: it has no evaluators.
        grace: seconds that requests under way have at the end.
        others: as in `Served`.
    """

    attributes: dict[str, list[str]]
    control: ControlArguments
    decoding: DecodingArguments
    positions: int | None
    warnings: list[str] | None
    name: str
    capacity: Capacity
    candidates: int | None
    max_tokens: int
    bounds: Bounds
    keys: tuple[str, ...]
    hosts: tuple[str, ...] | None
    grace: float

    @classmethod
    def of(cls, service: Served, grace: float) -> "HttpSettings":
        """Of what is served."""
        model = service.model
        return cls(
            model.attributes, model.control, model.decoding, model.generator.positions,
            model.scorer.coherence_warnings() if model.scorer else None, service.name, service.capacity,
            service.candidates, service.max_tokens, service.bounds, service.keys, service.hosts, grace,
        )  # fmt: skip

    def service(self) -> Served:
        """As the application takes it; its model reads requests, but cannot reply."""
        facts = SimpleNamespace(config=SimpleNamespace(attributes=self.attributes), positions=self.positions)
        evaluators = None
        if self.warnings is not None:
            evaluators = SimpleNamespace(coherence_warnings=lambda: self.warnings)
        model = Miracle(cast(Any, facts), cast(Any, evaluators), self.control, self.decoding)
        return Served(
            model, self.name, self.capacity, self.candidates, self.max_tokens, self.bounds, self.keys, self.hosts
        )  # fmt: skip


@dataclass
class UnderWay:
    """A job of which one process waits for the other's events.

    Attributes:
        left: replies that are still to come.
    """

    job: Job
    left: int

    def ended_by(self, event: Event) -> bool:
        """Whether this event, which comes now, is the last."""
        self.left -= isinstance(event, Finished)
        return isinstance(event, Failed) or not self.left


# --- the process that speaks HTTP -------------------------------------------------------------------------------------


@dataclass
class Counted:
    """What has been counted of one number: a sum, or what a histogram observed."""

    sum: float = 0.0
    observed: list[float] = field(default_factory=list)


Counts = dict[tuple[str, tuple[str, ...]], Counted]  # by the name of the number, and its labels


class RemoteMetric:
    """One number that the other process is told of."""

    def __init__(self, metrics: "RemoteMetrics", name: str, labels: tuple[str, ...] = ()):
        self._metrics, self._name, self._labels = metrics, name, labels

    def labels(self, *labels: str) -> "RemoteMetric":
        """The number with these labels."""
        return RemoteMetric(self._metrics, self._name, labels)

    def inc(self, amount: float = 1) -> None:
        """Count."""
        self._metrics.counted(self._name, self._labels).sum += amount

    def observe(self, amount: float) -> None:
        """Count in a histogram."""
        self._metrics.counted(self._name, self._labels).observed.append(amount)


class RemoteMetrics:
    """The numbers that the application counts; their names are those of `Metrics`. In the event loop alone."""

    def __init__(self, channel: Channel):
        self._channel = channel
        self._counts: Counts = {}

    def __getattr__(self, name: str) -> RemoteMetric:
        return RemoteMetric(self, name)

    def counted(self, name: str, labels: tuple[str, ...]) -> Counted:
        """What has not been sent of a number; it will be within `COUNTS_WITHIN`."""
        if not self._counts:
            asyncio.get_running_loop().call_later(COUNTS_WITHIN, self.send)
        return self._counts.setdefault((name, labels), Counted())

    def send(self) -> None:
        """Tell the other process what has been counted since the last time."""
        counts, self._counts = self._counts, {}
        if counts:
            self._channel.send("counts", counts)


class RemoteBackend:
    """A `server.backend.Backend` whose scheduler works in the process at the channel's other end.

    Args:
        end: of the channel.
        drain: called in the event loop at every signal to end.
        gone: called by another thread where the other process has ended before `close`.
    """

    def __init__(self, end: socket.socket, drain: Callable[[], None], gone: Callable[[], None]):
        self._drain, self._gone, self._closed = drain, gone, False
        self._channel = Channel(end, self._receive, self._lost)
        self._counts = RemoteMetrics(self._channel)
        self.metrics = cast(Metrics, self._counts)
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future] = {}
        self._jobs: dict[int, UnderWay] = {}
        self._number_of: dict[int, int] = {}  # by the job's id

    def start(self) -> None:
        """Begin to send and to receive, and say so to the other process."""
        self._loop = asyncio.get_running_loop()
        self._channel.start()

    def ready(self) -> None:
        """Say that requests are answered from now on."""
        self._channel.send("ready")

    def end(self) -> None:
        """Jobs that are not finished fail; the other process is told so."""
        for under_way in list(self._jobs.values()):
            self.cancel(under_way.job)
            under_way.job.listener(Failed(Refused("the server ended", 503, code="ending", retry_after=5)))

    def close(self) -> None:
        """The same, and nothing is sent any more."""
        self._closed = True
        self.end()
        self._counts.send()
        self._channel.close()

    def _lost(self) -> None:
        if not self._closed:
            self._gone()

    async def submit(self, job: Job) -> None:
        """See `Backend`."""
        number = next(self._numbers)
        self._jobs[number] = UnderWay(job, len(job.writings))
        self._number_of[id(job)] = number
        try:
            await self._ask(number, "submit", order_of(job))
        except BaseException:  # the request may have been given up meanwhile
            self.cancel(job)
            raise

    def cancel(self, job: Job) -> None:
        """See `Backend`."""
        number = self._number_of.pop(id(job), None)
        if number is not None:
            del self._jobs[number]
            self._channel.send("cancel", number)

    async def card(self, card: object) -> CardDials:
        """See `Backend`."""
        return await self._ask(next(self._numbers), "card", card)

    async def state(self) -> State:
        """See `Backend`."""
        return await self._ask(next(self._numbers), "state")

    async def numbers(self) -> bytes:
        """See `Backend`."""
        self._counts.send()
        return await self._ask(next(self._numbers), "numbers")

    def note(self, reply: Reply) -> None:
        """The other process has noted it."""

    async def _ask(self, number: int, what: str, *words: object) -> Any:
        answer = self._answers[number] = self._loop.create_future()
        self._channel.send(what, number, *words)
        try:
            found = await answer
        finally:
            del self._answers[number]
        if isinstance(found, Exception):
            raise found
        return found

    def _receive(self, messages: list[Message]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, messages)
        except RuntimeError:
            pass  # the loop is closed: nobody waits for them any more

    def _deliver(self, messages: list[Message]) -> None:
        for what, *words in messages:
            if what == "drain":
                self._drain()
                continue
            number, content = words
            if what == "answer" and number in self._answers and not self._answers[number].done():
                self._answers[number].set_result(content)
            elif what == "event" and (under_way := self._jobs.get(number)) is not None:
                if under_way.ended_by(content):
                    del self._jobs[number], self._number_of[id(under_way.job)]
                under_way.job.listener(content)


# --- the process that owns the model ----------------------------------------------------------------------------------


class HttpLink:
    """A process that speaks HTTP, as seen from the one that owns the model: does what it asks for.

    Args:
        end: of the channel.
        note: called with every reply that is sent.
        changed: called by another thread where the process is ready, and where it has ended.

    Attributes:
        ready: it answers requests.
    """

    def __init__(
        self,
        end: socket.socket,
        scheduler: Scheduler,
        note: Callable[[Reply], None],
        changed: Callable[[], None] = lambda: None,
    ):
        self.scheduler, self._note, self._changed, self.ready = scheduler, note, changed, False
        self._jobs: dict[int, UnderWay] = {}
        self._channel = Channel(end, self._receive, self._gone)
        self._channel.start()

    def drain(self) -> None:
        """A signal to end has come."""
        self._channel.send("drain")

    def close(self) -> None:
        """The process is to end at once."""
        self._channel.close()

    def _receive(self, messages: list[Message]) -> None:
        for what, *words in messages:
            try:
                getattr(self, f"_{what}")(*words)
            except Exception:  # the next message is another request's
                logger.exception("a message %r of the process that speaks HTTP", what)

    def _ready(self) -> None:
        self.ready = True
        self._changed()

    def _gone(self) -> None:
        for number in list(self._jobs):
            self._cancel(number)
        self._changed()

    def _submit(self, number: int, order: tuple) -> None:
        job = job_of(order, lambda event: self._event(number, event))
        self._jobs[number] = UnderWay(job, len(job.writings))
        try:
            self.scheduler.submit(job)
        except Refused as error:
            del self._jobs[number]
            self._channel.send("answer", number, error)
        else:
            self._channel.send("answer", number, None)

    def _event(self, number: int, event: Event) -> None:
        if isinstance(event, Failed):
            event = Failed(as_refused(event.error))
        if isinstance(event, Finished):
            self._note(event.reply)
        if (under_way := self._jobs.get(number)) is not None and under_way.ended_by(event):
            self._jobs.pop(number, None)
        self._channel.send("event", number, event)

    def _cancel(self, number: int) -> None:
        if (under_way := self._jobs.pop(number, None)) is not None:
            self.scheduler.cancel(under_way.job)

    def _card(self, number: int, card: object) -> None:
        def answer(found: Future) -> None:
            try:
                content: object = found.result()
            except CancelledError:
                content = Refused("the server ended", 503, code="ending", retry_after=5)
            except Exception as error:
                content = as_refused(error)
            self._channel.send("answer", number, content)

        model = self.scheduler.model
        try:
            self.scheduler.call(lambda: dials_of_card(card, model)).add_done_callback(answer)
        except Refused as error:
            self._channel.send("answer", number, error)

    def _state(self, number: int) -> None:
        self._channel.send("answer", number, state_of(self.scheduler))

    def _numbers(self, number: int) -> None:
        self._channel.send("answer", number, self.scheduler.metrics.text())

    def _counts(self, counts: Counts) -> None:
        for (name, labels), counted in counts.items():
            metric = getattr(self.scheduler.metrics, name)
            metric = metric.labels(*labels) if labels else metric
            if counted.sum:
                metric.inc(counted.sum)
            for amount in counted.observed:
                metric.observe(amount)
