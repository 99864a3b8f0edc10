"""A server in place of a loaded run: what `chat.py` and the playground ask of a `Miracle`, over the wire.

It speaks OpenAI's protocol through the official client, and knows this service's own fields.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from openai import APIConnectionError, APIStatusError, OpenAI, OpenAIError

from common.errors import InputError
from common.secrets import keep_secret
from miracle import Context, Miracle, Reply, Target, schema_of, turns_of

KEY = "MIRACLE_API_KEY"


def check_address(url: str) -> None:
    """Raises `InputError` for a URL that cannot name a server."""
    try:
        host = urlsplit(url).hostname or ""
        host.encode("idna")
    except (ValueError, UnicodeError):
        raise InputError(
            f"--server {url!r:.100}: this is no address; expected one like http://127.0.0.1:8000"
        ) from None


@dataclass(frozen=True)
class RemoteSettings:
    """The settings of the server's run that a page shows."""

    seed: int
    start: str
    candidates: int


class RemoteEvaluators:
    """The server's evaluators, as far as they are talked about here."""

    def __init__(self, warnings: list[str]):
        self._warnings = warnings

    def coherence_warnings(self) -> list[str]:
        """What speaks against trusting what they say of coherence."""
        return self._warnings


class RemoteMiracle:
    """A run behind a server.

    Attributes:
        name: the model's on the server.
        schema, attributes, weights, control, scorer: as a `Miracle` has them.
        generator: None; latents do not leave the server.
    """

    generator = None

    def __init__(self, url: str, key: str | None = None, timeout: float = 300.0):
        """Ask the server what it serves.

        Args:
            url: ``http://127.0.0.1:8000``, with or without ``/v1``.
            key: None: that of the environment.

        Raises:
            InputError: where there is no such server.
        """
        key = key or os.environ.get(KEY, "").partition(",")[0]
        keep_secret(key)
        if not key.isascii():
            raise InputError("the server's key has characters beyond ASCII, which no header can carry")
        check_address(url)
        base = url.rstrip("/").removesuffix("/v1") + "/v1"
        self.url = url
        try:
            self._client = OpenAI(base_url=base, api_key=key or "none", timeout=timeout)
            model = self._client.models.list().data[0]
            known: dict[str, Any] = (model.model_extra or {})["miracle"]
            self.name, attributes = model.id, known["attributes"]
            self.schema = schema_of(
                {str(name): list(map(str, aspects)) for name, aspects in attributes.items()}
            )
            self.weights = {name: float(known["weights"][name]) for name in self.schema.names}
            self.control = RemoteSettings(int(known["seed"]), str(known["start"]), int(known["candidates"]))
            self.scorer = RemoteEvaluators(list(map(str, known["warnings"]))) if known["evaluators"] else None
        except (APIConnectionError, APIStatusError, OpenAIError) as error:
            raise InputError(f"--server {url}: {_reason(error)}") from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise InputError(f"--server {url}: this is no server of serve.sh") from None

    @property
    def attributes(self) -> dict[str, list[str]]:
        """Attribute -> aspects."""
        return {attribute.name: list(attribute.aspects) for attribute in self.schema.attributes}

    def target(self, target: Target) -> dict[str, str]:
        """As `Miracle.target`."""
        return Miracle.target(self, target)  # type: ignore[arg-type]

    def reply(
        self,
        context: Context,
        target: Target = None,
        weights: float | dict[str, float] | None = None,
        n: int = 1,
        seed: int | None = None,
        on_text: Callable[[str], bool] | None = None,
        **options: object,
    ) -> list[Reply]:
        """As `Miracle.reply`; of several candidates `on_text` receives the one that is kept, when it is.

        Raises:
            InputError: for what the server refuses, with its reason.
        """
        turns = turns_of(context)
        asked = self.target(target)
        extra = {"target": asked, "weights": self.weights if weights is None else weights} | options
        messages = [
            {"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)
        ]
        arguments: dict[str, Any] = {"model": self.name, "messages": messages, "n": n, "seed": seed}
        arguments["extra_body"] = extra
        try:
            if on_text is not None and n == 1:
                return [self._streamed(turns, asked, arguments, on_text)]
            found = self._client.chat.completions.create(**arguments)
            return [_reply(turns, choice.message.content or "", choice) for choice in found.choices]
        except InputError:
            raise
        except OpenAIError as error:
            raise InputError(f"the server says: {_reason(error)}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # JSON of another shape, or none
            raise InputError(
                f"the server's answer is no completion ({type(error).__name__}: {error!s:.100})"
            ) from error

    def all_combinations(
        self,
        context: Context,
        weights: float | dict[str, float] | None = None,
        seed: int | None = None,
        **options: object,
    ) -> list[Reply]:
        """As `Miracle.all_combinations`, one request each."""
        return [
            self.reply(context, target, weights, 1, seed, **options)[0]
            for target in self.schema.combinations()
        ]

    def explain(self, reply: Reply) -> Any:
        """Raises `InputError`: latents do not leave the server."""
        raise InputError(
            "the latent's trajectory needs the run itself; a server sends texts and numbers only"
        )

    prior = explain

    def warm_up(self) -> None:
        """The server is warm."""

    def _streamed(
        self, turns: tuple[str, ...], target: dict[str, str], arguments: dict[str, Any], on_text: Callable[[str], bool]
    ) -> Reply:  # fmt: skip
        text, last = "", None
        with self._client.chat.completions.create(stream=True, **arguments) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    if choice.finish_reason is not None:
                        last = choice
                    if choice.delta.content:
                        text += choice.delta.content
                        if not on_text(text):
                            return _unfinished(turns, target, text, arguments)
        if last is None:
            raise InputError("the server ended the reply before it was written")
        return _reply(turns, text, last)


def _reply(turns: tuple[str, ...], text: str, choice: Any) -> Reply:
    extra = (choice.model_extra or {}).get("miracle") or {}
    return Reply(
        text, turns, extra.get("target") or {}, extra.get("weights") or {}, extra.get("seed") or 0, extra.get("predicted"),
        extra.get("probabilities"), extra.get("coherence"), extra.get("energy_start") or 0.0, extra.get("energy") or 0.0,
        extra.get("seconds") or 0.0, cut=extra.get("cut"),
    )  # fmt: skip


def _unfinished(turns: tuple[str, ...], target: dict[str, str], text: str, arguments: dict) -> Reply:
    nothing = float("nan")
    seed = arguments["seed"] or 0
    return Reply(text, turns, target, {}, seed, None, None, None, nothing, nothing, 0.0, finished=False)


def _reason(error: Exception) -> str:
    if isinstance(error, APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        return str(body.get("message") or error.message)[:300]
    if isinstance(error, APIConnectionError):
        return "nobody answers there; bash serve.sh starts a server"
    return str(error)[:300]
