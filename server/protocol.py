"""OpenAI's chat completions as this service speaks them: what a request may say, and what is refused by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from generation.control_weights import STRONGEST
from server.errors import Refused

MOST_CHARACTERS = 20_000  # of turns that are looked at: reading them holds up all replies, and a prompt has no room for more
MOST_CHOICES, MOST_STOPS, LONGEST_STOP = 128, 4, 200
# Fields of OpenAI's that this service does not have, with the values that ask for nothing and are let through.
UNSUPPORTED: dict[str, tuple] = {
    "audio": (), "frequency_penalty": (0,), "function_call": ("none",), "functions": ([],), "logit_bias": ({},),
    "logprobs": (False,), "modalities": (["text"],), "parallel_tool_calls": (True, False), "prediction": (),
    "presence_penalty": (0,), "prompt_cache_key": (), "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},), "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (0,),
    "verbosity": (), "web_search_options": (),
}  # fmt: skip
IGNORED = ("metadata", "safety_identifier", "service_tier", "store", "user")  # they change no reply
Body = TypeVar("Body", bound=BaseModel)


class Spoken(BaseModel):
    """What all parts of a request keep to: no conversions, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


Empty = Annotated[list, Field(max_length=0)] | None  # a field of OpenAI's that says nothing


class TextPart(Spoken):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(Spoken):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Empty = None
    tool_calls: Empty = None

    @property
    def text(self) -> str:
        """Its words."""
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Spoken):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ChatRequest(Spoken):
    """The body of ``POST /v1/chat/completions``; the fields from `target` on are ours."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: str | list[str] | None = None
    user: str | None = None

    target: str | list[str] | dict[str, str] | None = None
    weights: float | dict[str, float] | None = None
    candidates: int | None = Field(None, ge=1)
    start: Literal["mean", "sample"] | None = None
    fluency: float | None = Field(None, ge=0, le=STRONGEST)
    relevance: float | None = Field(None, ge=0, le=STRONGEST)
    guidance: float | None = Field(None, ge=0, le=10)
    plausibility: float | None = Field(None, ge=0, lt=1)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=100)
    context_block_ngram: int | None = Field(None, ge=0, le=100)
    repetition_penalty: float | None = Field(None, ge=1, le=10)
    scores: bool | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def client(self) -> str:
        """What the request says of its user."""
        other = (self.model_extra or {}).get("safety_identifier")
        return self.user or (other if isinstance(other, str) else "")

    def options(self) -> dict[str, object]:
        """The options of `Miracle.reply` that it sets, apart from target, weights and seed."""
        names = "candidates start fluency relevance guidance plausibility no_repeat_ngram_size context_block_ngram repetition_penalty"
        found = {name: value for name in names.split() if (value := getattr(self, name)) is not None}
        if self.temperature == 0:
            found["decoding"] = "greedy"
        elif self.temperature is not None or self.top_p is not None:
            found["decoding"] = "top_p"
            found |= {} if self.temperature is None else {"temperature": self.temperature}
            found |= {} if self.top_p is None else {"top_p": self.top_p}
        return found


def read_request(body: bytes) -> ChatRequest:
    """The request of a body.

    Raises:
        Refused: with 400, naming the field.
    """
    request = read_body(ChatRequest, body)
    for name, value in (request.model_extra or {}).items():
        _check_extra(name, value)
    if len(request.stops) > MOST_STOPS or any(not 0 < len(stop) <= LONGEST_STOP for stop in request.stops):
        raise Refused(
            f"stop: expected at most {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters", param="stop"
        )
    if request.stream_options is not None and not request.stream:
        raise Refused("stream_options: only with stream: true", param="stream_options")
    return request


def _check_extra(name: str, value: Any) -> None:
    if name in IGNORED or value is None:
        return
    if name not in UNSUPPORTED:
        raise Refused(f"unknown field: {name:.80}", param=name[:80], code="unknown_parameter")
    if not any(value == neutral for neutral in UNSUPPORTED[name]):
        raise Refused(f"{name} is not supported by this server", param=name, code="unsupported_parameter")


def read_body(kind: type[Body], body: bytes) -> Body:
    """A body as what is expected; raises `Refused` with 400 for anything else."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Refused(*_said(error)) from None
    except RecursionError:
        raise Refused("the body is nested too deeply") from None


def _said(error: ValidationError) -> tuple[str, int, str | None]:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    nearest = max(
        found, key=lambda one: len(one["loc"])
    )  # of several types that were tried the one that fits best
    param = ""
    for part in nearest["loc"]:
        if str(part).startswith(("list[", "dict[")) or part in (
            "str",
            "float",
        ):  # which of several types was tried
            continue
        param += f"[{part}]" if isinstance(part, int) else ("." if param else "") + str(part)[:80]
    return f"{param or 'body'}: {nearest['msg'][:200]}", 400, param[:200] or None


@dataclass(frozen=True)
class PastTurns:
    """What a request's messages say.

    Attributes:
        turns: user first and last.
        dropped: oldest turns that were left out.
    """

    turns: tuple[str, ...]
    dropped: int = 0


def conversation_of(
    messages: list[Message], context_of_system: Callable[[str], str], most_turns: int
) -> PastTurns:
    """Messages as turns, user first and last.

    Neighbouring messages of one role are one turn. What a system message says besides dials is read as context: it stands
    in front of the user turn that follows, and so does what an assistant says before any user. An assistant's empty message
    is left out. So are the oldest turns beyond `MOST_CHARACTERS`.

    Args:
        context_of_system: a system message's text -> what of it is context.
        most_turns: the oldest beyond are left out.

    Raises:
        Refused: with 400, naming the message.
    """
    turns: list[tuple[str, str]] = []
    ahead: list[str] = []  # what stands in front of the next user turn
    for number, message in enumerate(messages):
        text = " ".join(message.text.split())
        if message.role in ("system", "developer"):
            text = " ".join(context_of_system(message.text).split())
        elif not text and message.role == "user":
            param = f"messages[{number}].content"
            raise Refused(f"{param}: expected a text that is not empty", param=param)
        if not text:
            continue
        if message.role in ("system", "developer") or (message.role == "assistant" and not turns):
            ahead.append(text)
            continue
        if message.role == "user" and ahead:
            text = " ".join([*ahead, text])
            ahead = []
        if turns and turns[-1][0] == message.role:
            turns[-1] = (message.role, f"{turns[-1][1]} {text}")
        else:
            turns.append((message.role, text))
    if not turns or turns[-1][0] != "user":
        raise Refused(
            "the last message that says something must be the user's; a reply to it is what is written",
            param="messages",
        )
    kept = _latest(turns, most_turns)
    return PastTurns(tuple(text for _, text in kept), len(turns) - len(kept))


def _latest(turns: list[tuple[str, str]], most_turns: int) -> list[tuple[str, str]]:
    """The latest turns, user first and last, that are looked at; raises `Refused` where the last is too long by itself."""
    sizes = accumulate(len(text) for _, text in reversed(turns))
    fitting = min(most_turns, sum(size <= MOST_CHARACTERS for size in sizes))
    if not fitting:
        raise Refused(
            f"messages: expected at most {MOST_CHARACTERS} characters in the last turn, found {len(turns[-1][1])}",
            param="messages", code="context_length_exceeded",
        )  # fmt: skip
    return turns[-(fitting - 1 + fitting % 2) :]


def finite(number: float | None) -> float | None:
    """A number as JSON has it; None for one that it has not."""
    return None if number is None or not math.isfinite(number) else float(number)
