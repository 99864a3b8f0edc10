"""The application: paths, and how a request becomes a job and its events an answer."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from common.errors import InputError
from generation.control_weights import STRONGEST
from generation.options import uncontrolled
from miracle import Miracle, Reply
from playground.session import Log
from server.answers import Completion, data
from server.backend import Backend, LocalBackend
from server.dials import Dials, dials_of_system, listed_models, read_dials, split_model
from server.errors import Refused, as_refused
from server.guards import Bounds, Guards
from server.jobs import Added, Event, Failed, Finished, Job, writings_of
from server.protocol import ChatRequest, conversation_of, read_request
from server.scheduler import Capacity

logger = logging.getLogger(__name__)

MOST_TURNS = 63  # of a conversation that the models look at; far more than a decoder's prompt has room for
KEEP_ALIVE = 10.0  # seconds without text after which a stream says that it is still there


@dataclass(frozen=True)
class Served:
    """What is served, and how.

    Attributes:
        name: the model's.
        candidates: of requests that name none; None: the run's own number.
        max_tokens: that a reply may have at most; requests for more get this many.
        keys, hosts: see `Guards`.
    """

    model: Miracle
    name: str
    capacity: Capacity
    candidates: int | None = None
    max_tokens: int = 256
    bounds: Bounds = field(default_factory=Bounds)
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] | None = None
    log: Log = field(default_factory=lambda: Log(None))

    @property
    def longest(self) -> int:
        """Tokens that a reply may have: half of the decoder's positions at most, so that a context has room."""
        positions = self.model.generator.positions
        return self.max_tokens if positions is None else min(self.max_tokens, positions // 2)

    def note(self, reply: Reply) -> None:
        """A reply has been delivered."""
        self.log("server", self.name, [reply])


class ClientGone(Exception):
    """Whoever asked has left."""


class Inbox:
    """A job's events, carried from the scheduler's thread to the request's loop."""

    def __init__(self):
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue()
        self._thread = threading.get_ident()

    def __call__(self, event: Event) -> None:
        """Take an event; from any thread."""
        if threading.get_ident() == self._thread:
            self._events.put_nowait(event)
        else:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def next(self, gone: asyncio.Task, seconds: float) -> Event | None:
        """The next event; None where none comes in time. Raises `ClientGone`."""
        if not self._events.empty():
            return self._events.get_nowait()
        getting = asyncio.create_task(self._events.get())
        try:
            done, _ = await asyncio.wait(
                {getting, gone}, timeout=max(0.0, seconds), return_when="FIRST_COMPLETED"
            )
        finally:
            if not getting.done():
                getting.cancel()
        if getting in done:
            return getting.result()
        if gone in done:
            raise ClientGone
        return None


def read_settings(service: Served, request: ChatRequest, client: str, inbox: Inbox) -> Job:
    """A request as a job.

    Raises:
        Refused, InputError: for what cannot be done, with the field that asks for it.
    """
    model = service.model
    dials = Dials()
    for number, message in enumerate(request.messages):
        if message.role in ("system", "developer"):
            with _named(f"messages[{number}].content"):
                own, _ = dials_of_system(message.text, model.schema)
            dials |= own
    text = split_model(request.model, service.name) if request.model is not None else ""
    if text is None:
        raise Refused(
            f"there is no model {request.model!r:.100}; this server has {service.name!r}, with dials {service.name}:lyrical*0.5",
            404, "model", "model_not_found",
        )  # fmt: skip
    with _named("model"):
        dials |= read_dials(text, model.schema)
    with _named("target"):
        if request.target not in (None, {}, [], ""):
            dials |= Dials(model.target(request.target))
    conversation = conversation_of(
        request.messages, lambda text: dials_of_system(text, model.schema)[1], MOST_TURNS
    )
    target = {name: dials.target[name] for name in model.schema.names if name in dials.target}
    seed = model.control.seed if request.seed is None else request.seed
    n = request.n or 1
    options: dict[str, Any] = {"start": "sample"} if n > 1 else {}
    if service.candidates is not None:
        options["candidates"] = service.candidates
    options |= request.options() | {"seed": seed, "max_new_tokens": _tokens(service, request)}
    control, decoding = model.settings(_weights(model, dials, request), options)
    service.capacity.check(n * control.candidates)  # before there is an object for each of them
    weights = model_weights(model, dials, request)
    return Job(
        client=f"{client}/{request.client[:200]}",
        turns=conversation.turns,
        target=target,
        weights={name: weights[name] for name in target},
        decoding=decoding,
        writings=writings_of(conversation.turns, target, control if target else uncontrolled(control), n),
        listener=inbox,
        stops=request.stops,
        stream=bool(request.stream),
        scored=request.scores is not False,
        dropped=conversation.dropped,
    )


@contextlib.contextmanager
def _named(param: str):
    """A mistake in this field."""
    try:
        yield
    except InputError as error:
        raise Refused(f"{param}: {error}", param=param) from None


def _tokens(service: Served, request: ChatRequest) -> int:
    asked = request.max_completion_tokens or request.max_tokens or service.model.decoding.max_new_tokens
    return min(asked, service.longest)


def model_weights(model: Miracle, dials: Dials, request: ChatRequest) -> dict[str, float]:
    """Attribute -> weight: the run's own times the dials' factors, or what the request names."""
    weights = dials.weights(model.weights)
    given = request.weights
    if given is None:
        return weights
    named = given if isinstance(given, dict) else dict.fromkeys(weights, given)
    if unknown := sorted(set(named) - set(weights)):
        raise Refused(
            f"weights: unknown attributes {unknown}; known are {list(weights)}"[:500], param="weights"
        )
    return weights | {name: float(weight) for name, weight in named.items()}


def _weights(model: Miracle, dials: Dials, request: ChatRequest) -> dict[str, float]:
    weights = model_weights(model, dials, request)
    if not all(0 <= weight <= STRONGEST for weight in weights.values()):
        raise Refused(f"weights: expected numbers from 0 to {STRONGEST:g}", param="weights")
    return weights


class Conversations:
    """Handles the requests for completions.

    Attributes:
        backend: what writes the replies.
    """

    def __init__(self, service: Served, backend: Backend):
        self.service, self.backend, self.metrics = service, backend, backend.metrics

    async def events(self, job: Job, inbox: Inbox, request: Request) -> AsyncIterator[Event | None]:
        """All events of a job that has been submitted; None now and then while there are none.

        Raises:
            ClientGone: where the client leaves; the job is cancelled, as it is where the iterator is closed.
            Refused: where the job fails, or takes too long.
        """
        deadline = job.came + self.service.bounds.request_seconds
        gone, left = asyncio.create_task(_disconnected(request)), len(job.writings)
        first = True
        try:
            while left:
                event = await inbox.next(gone, min(KEEP_ALIVE, deadline - time.monotonic()))
                if event is None and time.monotonic() >= deadline:
                    raise Refused("the reply took too long", 504, code="timeout", retry_after=5)
                if isinstance(event, Failed):
                    raise as_refused(event.error)
                if event is not None and first:
                    first = False
                    self.metrics.first_seconds.observe(time.monotonic() - job.came)
                if isinstance(event, Finished):
                    left -= 1
                    self._note(event)
                    if not left:
                        self.metrics.tokens.labels("prompt").inc(event.prompt)
                yield event
            self.metrics.request_seconds.observe(time.monotonic() - job.came)
        finally:
            gone.cancel()
            if left:
                self.backend.cancel(job)

    def _note(self, event: Finished) -> None:
        self.metrics.tokens.labels("reply").inc(event.tokens)
        self.metrics.tokens.labels("written").inc(event.written)
        self.backend.note(event.reply)

    async def complete(self, request: Request, client: str) -> Response:
        """``POST /v1/chat/completions``."""
        asked, inbox = read_request(await json_body(request)), Inbox()
        job = read_settings(self.service, asked, client, inbox)
        completion = Completion(asked.model or self.service.name, job.scored)
        await self.backend.submit(job)
        if asked.stream:
            with_usage = asked.stream_options is not None and asked.stream_options.include_usage
            return EventStream(self.chunks(job, inbox, request, completion, with_usage))
        events = self.events(job, inbox, request)
        async with contextlib.aclosing(events):
            finished = [event async for event in events if isinstance(event, Finished)]
        return JSONResponse(completion.whole(finished))

    async def chunks(
        self, job: Job, inbox: Inbox, request: Request, completion: Completion, with_usage: bool
    ) -> AsyncIterator[bytes]:
        """The server-sent events of a stream."""
        finished: list[Finished] = []
        events = self.events(job, inbox, request)
        async with contextlib.aclosing(events):
            for index in range(len(job.writings)):
                yield data(completion.chunk(index, {"role": "assistant", "content": ""}))
            try:
                async for event in events:
                    if event is None:
                        yield b": waiting\n\n"
                    elif isinstance(event, Added):
                        yield data(completion.chunk(event.index, {"content": event.text}))
                    elif isinstance(event, Finished):
                        finished.append(event)
                        if event.added:
                            yield data(completion.chunk(event.index, {"content": event.added}))
                        yield data(completion.last_chunk(event))
            except Refused as error:
                yield data(error.body)
                return
            if with_usage:
                yield data(completion.usage_chunk(finished))
            yield data("[DONE]")


class EventStream(Response):
    """Server-sent events; what they come from is closed however the answer ends."""

    def __init__(self, content: AsyncIterator[bytes]):
        self.content, self.status_code, self.background = content, 200, None

    async def __call__(self, scope, receive, send) -> None:
        """Send them."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]  # fmt: skip
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for part in self.content:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            pass
        finally:
            await self.content.aclose()  # type: ignore[attr-defined]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def json_body(request: Request) -> bytes:
    """The body; raises `Refused` with 415 where it is not said to be JSON, which a web page could send without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused("expected the header Content-Type: application/json", 415)
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise Refused("expected a body without Content-Encoding", 415)
    return await request.body()


def make_app(service: Served, backend: Backend | None = None) -> Guards:
    """The ASGI application, guarded; its backend starts and ends with it.

    Args:
        backend: what writes the replies; None: the service's model, in this process.
    """
    backend = backend or LocalBackend(service.model, service.capacity, service.note)
    conversations = Conversations(service, backend)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI):
        backend.start()
        yield
        await asyncio.to_thread(backend.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    guards = Guards(app, service.keys, service.hosts, service.bounds, backend.metrics)
    guards.give_up, guards.close = backend.end, backend.close
    created = int(time.time())

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await conversations.complete(request, guards.client_of(request.scope))  # type: ignore[arg-type]

    @app.get("/v1/models")
    async def models() -> Response:
        names = listed_models(service.name, service.model.schema)
        return JSONResponse({"object": "list", "data": [_model(service, name, created) for name in names]})

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        text = split_model(name, service.name)
        if text is None:
            raise Refused(f"there is no model {name!r:.100}", 404, "model", "model_not_found")
        with _named("model"):
            read_dials(text, service.model.schema)
        return JSONResponse(_model(service, name, created))

    @app.post("/v1/cards")
    async def cards(request: Request) -> Response:
        card = _json(await json_body(request))
        found = await backend.card(card)
        text = found.dials.text(service.model.schema)
        return JSONResponse(
            {
                "object": "miracle.card",
                "name": found.name,
                "model": f"{service.name}:{text}" if text else service.name,
                "dials": text,
                "target": found.dials.target,
                "weights": {
                    name: weight
                    for name, weight in found.dials.weights(service.model.weights).items()
                    if name in found.dials.target
                },
                "probabilities": found.probabilities,
                "sentences": found.texts,
                "read": found.read,
                "unread": found.unread,
                "first_message": found.first_message,
            }
        )

    @app.get("/health")
    async def health() -> Response:
        state = await backend.state()
        status = "ending" if guards.draining else "ok" if state.alive else "failed"
        found = {
            "status": status,
            "model": service.name,
            "waiting": state.waiting,
            "rows": state.rows,
        }
        return JSONResponse(found, 200 if status == "ok" else 503)

    @app.get("/metrics")
    async def numbers() -> Response:
        return Response(await backend.numbers(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        refusal = _refusal(Refused(str(error.detail), error.status_code))
        refusal.headers.update(error.headers or {})  # which methods are allowed
        return refusal

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return _refusal(error)

    @app.exception_handler(InputError)
    async def mistake(_: Request, error: InputError) -> Response:
        return _refusal(Refused(str(error)))

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return _refusal(as_refused(error))  # uvicorn logs the error

    @app.exception_handler(ClientGone)
    async def left(_: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    return guards


def _refusal(error: Refused) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


def _json(body: bytes) -> object:
    try:
        return from_json(
            body, allow_inf_nan=False
        )  # refuses halves of surrogate pairs, as json.loads does not
    except ValueError as error:
        raise Refused(f"the body is not JSON: {error}"[:200]) from None


def _model(service: Served, name: str, created: int) -> dict:
    model = service.model
    found: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "miracle"}
    control = model.control
    found["miracle"] = {
        "attributes": model.attributes,
        "weights": model.weights,
        "candidates": service.candidates or control.candidates,
        "seed": control.seed,
        "start": control.start,
        "evaluators": model.scorer is not None,
        "warnings": model.scorer.coherence_warnings() if model.scorer else [],
        "max_tokens": service.longest,
    }
    return found
