"""The language model's service: one chat request at a time, in the strictest answer format that the server takes."""

import json
import math
import re
from dataclasses import dataclass

import openai
from tqdm import tqdm

from common.errors import InputError
from common.jsonl import json_value
from common.network import reason_of
from common.secrets import redacted
from dataset.synthesis.answers import without_reasoning
from dataset.synthesis.costs import estimated_tokens
from dataset.synthesis.journal import Answer, Journal, text_of
from dataset.synthesis.tasks import Task, answer_schema

FORMATS = ("json_schema", "json_object", "text")  # strictest first
FATAL = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
FORMAT_REFUSALS = (400, 415, 422, 500, 501)  # statuses by which servers refuse an answer format
QUICK_RETRIES = 2  # until the service has answered once: a wrong address is to be found out at once
PATIENCE = (
    4  # requests in a row without an answer, of a service that has not answered yet, before the run ends
)
POSITIONS = 16  # tokens of an answer whose log-probabilities are kept
LONG_PATIENCE = 10  # the same of one that has
FILTERED = re.compile(
    r"content[ _-]?(?:filter|management|policy|violation)|responsible ?ai|moderation|was flagged|safety (?:system|polic|setting|filter)|"
    r"data_?inspection|(?:inappropriate|prohibited|sensitive|unsafe|harmful) (?:content|input|words?|information)|usage polic",
    re.IGNORECASE,
)
ABOUT_FORMAT = re.compile(
    r"response_?format|json_?(?:schema|object|mode)|\bschema\b|grammar|guided|structured", re.IGNORECASE
)
UNSUPPORTED = re.compile(
    r"unsupported|not supported|unrecognized|unknown|unexpected|not permitted|does not support|extra inputs",
    re.IGNORECASE,
)
REPLACEMENTS = {
    "max_tokens": "max_completion_tokens",
    "temperature": None,
    "seed": None,
}  # for servers that refuse a parameter


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


class NotACompletion(Unavailable):
    """Something came with status 200 that is no chat completion: a sign-in page, an error object, a stream."""


class OutOfService(InputError):
    """The service will answer no request at all (key, model, quota, address); the run ends."""


def response_format(form: str, turns: int) -> dict:
    """The ``response_format`` parameter of an answer format; empty for plain text."""
    if form == "json_schema":
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "dialogue", "strict": True, "schema": answer_schema(turns)},
            }
        }
    return {"response_format": {"type": "json_object"}} if form == "json_object" else {}


def messages_for(task: Task, attempt: int, last: Answer | None, reason: str | None) -> list[dict]:
    """The chat of a first request, or of a repair."""
    return (
        task.messages()
        if attempt == 0 or last is None
        else task.repair_messages(
            without_reasoning(last.text) or last.text, reason or "it has the wrong form"
        )
    )


class Service:
    """Asks, checks what comes, journals it, and finds out once which answer format the server takes.

    Args:
        client: an `openai.AsyncOpenAI`; its own retries, backoff and waiting for ``Retry-After`` are used.
        form: one of `FORMATS`, or ``auto``: the strictest that the server does not refuse; what was found is
            remembered in the journal.
        address: of the server, for messages.

    Attributes:
        format_known: whether the server is known to take the format; until then, make one request at a time.
        answered: whether it has answered in this run.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        settings: RequestSettings,
        journal: Journal,
        form: str = "auto",
        address: str = "",
    ):
        self.client, self.settings, self.journal, self.auto, self.address = (
            client,
            settings,
            journal,
            form == "auto",
            address,
        )
        known = journal.memory.get("format") if self.auto else form
        known = known if known in FORMATS else None
        self.format, self.format_known, self.answered = known or FORMATS[0], known is not None, False
        self.replaced: dict[str, str | None] = dict(journal.memory.get("parameters") or {})
        self.doubtful = False  # whether a stricter form met the server's own error, which may have been about something else
        self.refusals: dict[
            str, str
        ] = {}  # answer format -> with which words it was refused, where no format was taken

    def body(self, task: Task, messages: list[dict], form: str | None = None) -> dict:
        """A request's parameters, as this server takes them."""
        body = self.settings.body(task, messages, form or self.format)
        for name, other in self.replaced.items():
            if name in body:
                value = body.pop(name)
                body |= {} if other is None else {other: value}
        return body

    async def ask(self, task: Task, attempt: int, last: Answer | None, reason: str | None) -> Answer:
        """One answer, journalled before it is returned.

        Raises:
            Unavailable: no answer after all retries, or none to this request.
            OutOfService: a key, model or quota that no request would get past.
        """
        messages, patient = messages_for(task, attempt, last, reason), False
        while True:
            form = self.format
            client = (
                self.client
                if self.answered or patient
                else self.client.with_options(
                    max_retries=min(self.client.max_retries, QUICK_RETRIES if form == "text" else 1)
                )
            )
            self.journal.write_sent(task.key, attempt)
            try:
                raw = await client.chat.completions.with_raw_response.create(
                    **self.body(task, messages, form)
                )
                answer = answer_of(json_of(raw.content), task.key, attempt, messages)
            except openai.RateLimitError as error:
                if error.code == "insufficient_quota":
                    raise OutOfService(f"the account's quota is used up: {message_of(error)}") from error
                if client is not self.client:
                    patient = True
                    continue
                raise Unavailable(f"too many requests, after all retries: {message_of(error)}") from error
            except openai.APIStatusError as error:
                if is_filtered(error):
                    answer = Answer(
                        task.key,
                        attempt,
                        "",
                        refusal=f"content filter, status {error.status_code}: {message_of(error)[:120]}",
                    )
                    self.journal.write_answer(
                        answer
                    )  # this topic's affair; the answer format is still to be found
                    return answer
                if isinstance(error, FATAL) or error.status_code == 405:
                    raise OutOfService(
                        f"{type(error).__name__} (status {error.status_code}): {message_of(error)}{self.advice(error)}"
                    ) from error
                if self.replaces(error.status_code, message_of(error)) or self.weakens(
                    form, error.status_code, message_of(error)
                ):
                    continue
                what = "the server refuses the request" if error.status_code < 500 else type(error).__name__
                raise Unavailable(f"{what} (status {error.status_code}): {message_of(error)}") from error
            except NotACompletion as error:
                raise NotACompletion(f"{error}{self.advice()}") from None
            except openai.APITimeoutError as error:
                raise Unavailable("no answer within --timeout, after all retries") from error
            except openai.APIConnectionError as error:
                raise Unavailable(
                    f"the server cannot be reached{f' at {self.address}' if self.address else ''}: {redacted(reason_of(error))[:200]}"
                ) from error
            except openai.APIError as error:
                raise Unavailable(f"{type(error).__name__}: {message_of(error)}") from error
            self.journal.write_answer(answer)
            self.answered = True
            if not self.format_known:
                if not self.doubtful:
                    self.journal.remember("format", form)
                self.format, self.format_known = form, True
            return answer

    def weakens(self, form: str, status: int, message: str) -> bool:
        """Whether a refused request is worth another one in plainer form, which is then the form of all.

        Where no form is taken, the refusal is the request's own, or the server's for every request: the next task then
        begins with the strictest form again, and gives up where that is refused with the same words.
        """
        if not self.auto or self.format_known or status not in FORMAT_REFUSALS:
            return False
        if self.format != form:  # another request has found that out
            return True
        weaker = FORMATS[FORMATS.index(form) + 1 :]
        if not weaker or self.refusals.get(form) == message:
            self.refusals[form], self.format = message, FORMATS[0]
            return False
        self.refusals[form], self.format = message, weaker[0]
        self.doubtful = self.doubtful or (status == 500 and not ABOUT_FORMAT.search(message))
        return True

    def replaces(self, status: int, message: str) -> bool:
        """Whether a request was refused for a parameter that can be named otherwise or left out; from then on it is."""
        if status not in (400, 422) or not UNSUPPORTED.search(message):
            return False
        for name, other in REPLACEMENTS.items():
            if (
                getattr(self.settings, name) is not None
                and name not in self.replaced
                and re.search(rf"\b{name}\b", message)
            ):
                self.replaced[name] = other
                self.journal.remember("parameters", self.replaced)
                tqdm.write(
                    f"the server does not take {name}; {f'{other} is sent in its place' if other else 'requests leave it out'}"
                )
                return True
        return False

    def advice(self, error: openai.APIStatusError | None = None) -> str:
        """What to try where a server has nothing at an address; empty where it is the model that is missing."""
        about_model = error is not None and (
            (not isinstance(error, openai.NotFoundError) and error.status_code != 405)
            or "model" in message_of(error).lower()
        )
        if about_model or not self.address:
            return ""
        address = self.address.rstrip("/")
        if address.endswith("/completions"):
            return f"; try --base-url {address.removesuffix('/completions').removesuffix('/chat')}"
        return (
            f"; is --base-url {address} right?"
            if re.search(r"/v\d+\w*$", address)
            else f"; try --base-url {address}/v1"
        )


def is_filtered(error: openai.APIStatusError) -> bool:
    """Whether one prompt was refused for what it says, which is no matter of the other prompts."""
    body = error.body if isinstance(error.body, (dict, str)) else {}
    return error.status_code in (400, 403, 422, 451) and bool(
        FILTERED.search(f"{error.code} {json.dumps(body)} {error}")
    )


def json_of(content: bytes) -> object:
    """A response's JSON; raises `NotACompletion` for anything else, with its beginning."""
    try:
        return json_value(content, strict=False)
    except ValueError:
        beginning = " ".join(content[:300].decode("utf-8", "replace").split())[:80]
        raise NotACompletion(f"the server's answer is not JSON but {redacted(beginning)!r}") from None


def answer_of(
    completion: object, key: str, attempt: int, messages: list[dict], batch: bool = False
) -> Answer:
    """A chat completion, as JSON, as an `Answer`; servers leave out what they like.

    Where the service does not say what it counted, tokens are estimated, so that no limit stops working.

    Raises:
        NotACompletion: for anything that holds no message of the model.
    """
    body = completion if isinstance(completion, dict) else {}
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    finish, content = (
        choice.get("finish_reason"),
        (message or {}).get("content") if isinstance(message, dict) else None,
    )
    if (
        not isinstance(message, dict)
        or finish == "error"
        or not isinstance(content, (str, list, dict, type(None)))
    ):
        error = body.get("error") or choice.get("error") or completion
        stated = error.get("message") if isinstance(error, dict) else None
        said = stated if isinstance(stated, str) else json.dumps(error, ensure_ascii=False, default=str)
        raise NotACompletion(
            f"the server's answer is no chat completion but {redacted(' '.join(said.split()))[:120]!r}"
        )
    text, refusal = text_of(content), message.get("refusal")
    usage = body.get("usage")
    counted = [
        (usage if isinstance(usage, dict) else {}).get(name)
        for name in ("prompt_tokens", "completion_tokens")
    ]
    tokens = [
        int(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
        else None
        for value in counted
    ]
    return Answer(
        key=key,
        attempt=attempt,
        text=text,
        finish_reason=finish if isinstance(finish, str) else None,
        refusal=text_of(refusal) if isinstance(refusal, str) and refusal.strip() else None,
        tokens_in=tokens[0]
        if tokens[0] is not None
        else estimated_tokens("".join(message["content"] for message in messages)),
        tokens_out=tokens[1]
        if tokens[1] is not None
        else estimated_tokens(json.dumps(message, ensure_ascii=False)),
        batch=batch,
        logprobs=_logprobs(choice.get("logprobs")),
    )


def _logprobs(logprobs: object) -> list[dict[str, float]] | None:
    """The first tokens' log-probabilities, the sampled token's first; None where there are none, or not in the usual form."""
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return None
    positions: list[dict[str, float]] = []
    for position in content[:POSITIONS]:
        tokens: dict[str, float] = {}
        alternatives = position.get("top_logprobs") if isinstance(position, dict) else None
        for one in [position, *(alternatives if isinstance(alternatives, list) else [])]:
            token, value = (one.get("token"), one.get("logprob")) if isinstance(one, dict) else (None, None)
            if isinstance(token, str) and isinstance(value, (int, float)) and math.isfinite(value):
                tokens.setdefault(text_of(token), float(value))
        if not tokens:
            return positions or None
        positions.append(tokens)
    return positions or None


def message_of(error: Exception) -> str:
    """An error's message in one line, without anything that looks like a key (services echo parts of it)."""
    return redacted(" ".join(str(getattr(error, "message", None) or error).split()))[:300]
