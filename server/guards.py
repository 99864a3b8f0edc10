"""What stands in front of every request: keys, host names, sizes, times, and the end of the server."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from server.errors import Refused
from server.metrics import Metrics

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/health",)  # needs no key
UNREAD_BYTES, UNREAD_SECONDS = 8 * 2**20, 2.0  # of a refused body that are read all the same
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]


@dataclass(frozen=True)
class Bounds:
    """Limits of one request.

    Attributes:
        body: bytes.
        body_seconds: for the whole body to arrive.
        stall_seconds: that a client may leave what is sent to it unread.
        request_seconds: from a request's arrival to its last word.
    """

    body: int = 256 * 1024
    body_seconds: float = 20.0
    stall_seconds: float = 30.0
    request_seconds: float = 300.0


class Stalled(Exception):
    """A client does not read what it is sent."""


class Guards:
    """ASGI middleware.

    Args:
        keys: any of these is accepted; none: no key is asked for.
        hosts: names that the Host header may have; None: any. On loopback this keeps web pages out whose own name was made
            to point here.

    Attributes:
        draining: requests are refused with 503; those under way go on.
        under_way: requests that are neither answered nor refused.
        give_up: called where the time for those under way is over, so that each ends with a word about it.
        close: called when all is over: the same, and waits for the thread that owns the model.
    """

    def __init__(
        self, app, keys: tuple[str, ...], hosts: tuple[str, ...] | None, bounds: Bounds, metrics: Metrics
    ):
        self.app, self.hosts, self.bounds, self.metrics = app, hosts, bounds, metrics
        self.keys = [key.encode() for key in keys]
        self.draining, self.under_way = False, 0
        self.give_up: Callable[[], None] = lambda: None
        self.close: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on; a refusal is answered here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = in_origin_form(scope)
        sender = _Sender(send, self.bounds.stall_seconds)
        self.under_way += 1
        try:
            try:
                self._check(scope)
            except Refused:
                await _discard(receive)
                raise
            body = await self._body(scope, receive)
            await self.app(scope, _replayed(body, receive), sender)
        except Refused as error:
            await sender.refuse(error)
        except Stalled:
            pass  # the server closes the connection
        except asyncio.CancelledError:
            if not self.draining:
                raise  # else a third signal: uvicorn would print a traceback for each
        finally:
            self.under_way -= 1
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.metrics.requests.labels(path, str(sender.status or "none")).inc()

    def client_of(self, scope: Scope) -> str:
        """Whom a request is from: its key where there are several, and its address."""
        address = (scope.get("client") or ("",))[0]
        return f"{self._key_index(scope) if len(self.keys) > 1 else 0}/{address}"

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self.hosts is not None:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
            if name.lower() not in self.hosts:
                raise Refused(f"the Host header must be one of {', '.join(self.hosts)}", 421)
        if scope["path"] in OPEN:
            return
        if self.keys and self._key_index(scope) is None:
            raise Refused("a valid key is needed: Authorization: Bearer ...", 401, code="invalid_api_key")
        if self.draining:
            raise Refused("the server is ending", 503, code="ending", retry_after=5)

    def _key_index(self, scope: Scope) -> int | None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        matching = [number for number, own in enumerate(self.keys) if hmac.compare_digest(own, key.strip())]
        return matching[0] if matching else None

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        limit = self.bounds.body
        large = Refused(f"the body has more than {limit} bytes", 413, code="too_large")
        if length.isdigit() and int(length[:20]) > limit:
            await _discard(receive)
            raise large
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.bounds.body_seconds):
                more, size = True, 0
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Stalled
                    part = message.get("body", b"")
                    size += len(part)
                    more = message.get("more_body", False)
                    if size > limit:
                        if more:
                            await _discard(receive)
                        raise large
                    parts.append(part)
        except TimeoutError:
            raise Refused(
                f"the body did not arrive within {self.bounds.body_seconds:g} s", 408, code="too_slow"
            ) from None
        return b"".join(parts)


def in_origin_form(scope: Scope) -> Scope:
    """A request for ``http://host/path``, as proxies write it, as one for ``/path`` of that host (RFC 9112, section 3.2.2)."""
    scheme, absolute, rest = scope["path"].partition("://")
    if not absolute or scheme.lower() not in ("http", "https"):
        return scope
    host, _, path = rest.partition("/")
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    raw = b"/" + scope["raw_path"].partition(b"://")[2].partition(b"/")[2]
    return scope | {"path": f"/{path}", "raw_path": raw, "headers": [*headers, (b"host", host.encode())]}


PATHS = ("/v1/chat/completions", "/v1/models", "/v1/cards", "/health", "/metrics")


async def _discard(receive: Receive) -> None:
    """Read what a refused client still sends, for a while: a connection that is closed before is reset, and the answer lost."""
    size, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UNREAD_SECONDS):
            while more and size < UNREAD_BYTES:
                message = await receive()
                size, more = size + len(message.get("body", b"")), message.get("more_body", False)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes."""
    given = False

    async def again() -> dict:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class _Sender:
    """Passes messages on; one that is not taken in time raises `Stalled`."""

    def __init__(self, send: Send, seconds: float):
        self._send, self._seconds, self.status = send, seconds, 0

    async def __call__(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            raise Stalled from None

    async def refuse(self, error: Refused) -> None:
        """An error as an answer; nothing where an answer has begun."""
        if self.status:
            return
        content = json.dumps(error.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | error.headers
        headers["Connection"] = "close"  # a body that was not read must not be taken for the next request
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": error.status, "headers": encoded})
        await self({"type": "http.response.body", "body": content})
