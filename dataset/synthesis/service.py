"""The language model's service: one chat request at a time, in the strictest answer format that the server takes."""

import re
from dataclasses import dataclass

import openai

from schema import InputError

from dataset.synthesis.journal import Answer, Journal
from dataset.synthesis.tasks import Task, answer_schema, repair_messages

FORMATS = ("json_schema", "json_object", "text")  # strictest first
FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)


@dataclass(frozen=True)
class RequestSettings:
    """What every request says besides its messages; None leaves a field to the server."""

    model: str
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None

    def body(self, task: Task, messages: list[dict], form: str) -> dict:
        """A chat completion's parameters."""
        given = {key: value for key, value in self.__dict__.items() if value is not None}
        if self.seed is not None:
            given["seed"] = self.seed + task.number
        return {"messages": messages, **given, **response_format(form, task.turns)}


class Unavailable(RuntimeError):
    """The service gave no answer to a request, after all retries; the task stays open for the next run."""


class OutOfService(InputError):
    """The service will answer no request at all (key, model, quota); the run ends."""


def response_format(form: str, turns: int) -> dict:
    """The ``response_format`` parameter of an answer format; empty for plain text."""
    if form == "json_schema":
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "dialogue", "strict": True, "schema": answer_schema(turns)}}}
    return {"response_format": {"type": "json_object"}} if form == "json_object" else {}


def messages_for(task: Task, attempt: int, last: Answer | None, reason: str | None) -> list[dict]:
    """The chat of a first request, or of a repair."""
    return task.messages() if attempt == 0 or last is None else repair_messages(task, last.text, reason or "it has the wrong form")


class Service:
    """Asks, journals, and finds out once which answer format the server takes.

    Args:
        client: an `openai.AsyncOpenAI`; its own retries, backoff and waiting for ``Retry-After`` are used.
        form: one of `FORMATS`, or ``auto``: the strictest that the server does not refuse; what was found is
            remembered in the journal.

    Attributes:
        settled: whether the server is known to take the format; until then, make one request at a time.
    """

    def __init__(self, client: openai.AsyncOpenAI, settings: RequestSettings, journal: Journal, form: str = "auto"):
        self.client, self.settings, self.journal = client, settings, journal
        known = journal.memory.get("format") if form == "auto" else form
        self.format, self.settled = known or FORMATS[0], known is not None

    async def ask(self, task: Task, attempt: int, last: Answer | None, reason: str | None) -> Answer:
        """One answer, journalled before it is returned.

        Raises:
            Unavailable: no answer after all retries.
            OutOfService: a key, model or quota that no request would get past.
        """
        messages = messages_for(task, attempt, last, reason)
        while True:
            form = self.format
            self.journal.write_sent(task.key, attempt)
            try:
                completion = await self.client.chat.completions.create(**self.settings.body(task, messages, form))
            except FATAL as error:
                raise OutOfService(f"{type(error).__name__} (status {error.status_code}): {message_of(error)}") from error
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    raise OutOfService(f"the account's quota is used up: {message_of(error)}") from error
                raise Unavailable(f"too many requests, after all retries: {message_of(error)}") from error
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                weaker = FORMATS[FORMATS.index(form) + 1 :]
                if self.settled and self.format == form or not weaker:
                    raise OutOfService(f"the server refuses the request (status {error.status_code}): {message_of(error)}") from error
                if self.format == form:  # else another request has found that out
                    self.format = weaker[0]
                continue
            except openai.APIError as error:
                raise Unavailable(f"{type(error).__name__}: {message_of(error)}") from error
            answer = answer_of(completion, task.key, attempt)
            self.journal.write_answer(answer)
            if not self.settled:
                self.journal.remember("format", form)
                self.format, self.settled = form, True
            return answer


def answer_of(completion, key: str, attempt: int, batch: bool = False) -> Answer:
    """A chat completion as an `Answer`; servers leave out what they like."""
    choice = completion.choices[0] if completion.choices else None
    message = choice.message if choice else None
    usage = completion.usage
    return Answer(
        key=key,
        attempt=attempt,
        text=(message.content if message else None) or "",
        finish_reason=choice.finish_reason if choice else None,
        refusal=getattr(message, "refusal", None),
        tokens_in=(usage.prompt_tokens or 0) if usage else 0,
        tokens_out=(usage.completion_tokens or 0) if usage else 0,
        batch=batch,
    )


def message_of(error: Exception) -> str:
    """An error's message in one line, without anything that looks like a key (services echo parts of it)."""
    return without_keys(" ".join(str(getattr(error, "message", None) or error).split()))[:300]


def without_keys(text: str, *keys: str) -> str:
    """The text with the given keys, and whatever looks like one, replaced by ``***``."""
    for key in keys:
        if key:
            text = text.replace(key, "***")
    return re.sub(r"\b(sk|pk|key|hf)[-_][A-Za-z0-9*_\-.]{6,}", "***", text)
