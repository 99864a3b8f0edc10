"""The journal: every request that leaves and every answer that was paid for, on disk before it counts."""

import fcntl
import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.jsonl import json_value
from common.secrets import redacted
from common.shapes import Fields, Items, Maybe, Number, Values, misfit


@dataclass(frozen=True)
class Answer:
    """One answer of the service.

    Attributes:
        key: of the task it belongs to.
        attempt: 0 for the first answer, 1 for the repair.
        text: as it came.
        tokens_in, tokens_out: as the service counted them; 0 where it did not.
        logprobs: of the first tokens, where they were asked for and given: token -> log-probability, the one that was sampled first.
    """

    key: str
    attempt: int
    text: str
    finish_reason: str | None = None
    refusal: str | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    batch: bool = False
    logprobs: list[dict[str, float]] | None = None


SENT = Fields({"key": str, "attempt": int}, ("key", "attempt"))
ANSWER = Fields(
    {
        **SENT.known,
        "finish_reason": str,
        "refusal": str,
        "tokens_in": Number(0),
        "tokens_out": Number(0),
        "batch": bool,
        "logprobs": Maybe(Items(Values(Number()))),
    },
    SENT.needed,
)
SUBMISSION = Fields({"mark": str, "requests": Items(str), "batch": str}, ("mark", "requests"))
MEMORY = Fields({"submission": Maybe(SUBMISSION), "format": str, "parameters": Maybe(Values(Maybe(str)))})
FIELDS = {field.name for field in fields(Answer)}
REASONING_PARTS = ("thinking", "reasoning", "redacted_thinking", "thought")


def text_of(content: object) -> str:
    """A message's content as text: a string as it is, the text parts of a list of blocks joined, nothing for None.

    Blocks of reasoning are not part of it. What no UTF-8 file can hold (lone surrogates) becomes a question mark.
    """
    if isinstance(content, str):
        return content.encode("utf-8", "replace").decode("utf-8")
    if isinstance(content, list):
        return "".join(map(text_of, content))
    if isinstance(content, dict) and str(content.get("type", "text")).lower() not in REASONING_PARTS:
        inner = content.get("text", content.get("content"))
        return text_of(inner.get("value") if isinstance(inner, dict) and "value" in inner else inner)
    return ""


class Journal:
    """An append-only JSON Lines file, one process at a time.

    A line is an answer, a request sent, or something to remember (the answer format that the server takes, a batch).
    Every line is flushed and synced before `write` returns, so that a process killed at any moment loses at most what
    was under way. A last line cut off by that is dropped when the journal is opened again.

    Raises:
        InputError: where another process has the journal open, or a line in its middle cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = os.fdopen(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "ab+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise InputError(
                f"{path} is in use by another process; wait for it or name another --output-dir"
            ) from None
        self.answers: dict[tuple[str, int], Answer] = {}
        self.sent: dict[tuple[str, int], int] = {}
        self.memory: dict[str, Any] = {}
        self._read()

    def _read(self) -> None:
        self.file.seek(0)
        content = self.file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            os.truncate(self.path, complete)  # a line cut off when the process died
        for number, line in enumerate(content[:complete].splitlines(), 1):
            try:
                self._take(json_value(line, strict=False))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{self.path}:{number}: not a line of a journal ({type(error).__name__}: {error!s:.200})"
                ) from None
        self.file.seek(0, os.SEEK_END)

    def _take(self, line: dict) -> None:
        kind = line.pop("kind")
        if kind == "answer":
            line = {name: value for name, value in line.items() if name in FIELDS}
            if wrong := misfit(line, ANSWER):
                raise ValueError(wrong)
            answer = Answer(
                **line
                | {
                    "text": text_of(line["text"]),
                    "tokens_in": line.get("tokens_in") or 0,
                    "tokens_out": line.get("tokens_out") or 0,
                }
            )
            self.answers.setdefault((answer.key, answer.attempt), answer)
        elif kind == "sent":
            if wrong := misfit(line, SENT):
                raise ValueError(wrong)
            key = (line["key"], line["attempt"])
            self.sent[key] = self.sent.get(key, 0) + 1
        elif kind == "memory":
            if wrong := misfit({line["name"]: line["value"]}, MEMORY):
                raise ValueError(wrong)
            self.memory[line["name"]] = line["value"]
        else:
            raise ValueError(f"unknown kind {kind!r}")

    def _write(self, line: dict) -> None:
        line = {name: redacted(value) if isinstance(value, str) else value for name, value in line.items()}
        self.file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        self._take(dict(line))

    def write_answer(self, answer: Answer) -> None:
        """Keep an answer."""
        given = {
            name: value for name, value in answer.__dict__.items() if (name, value) != ("logprobs", None)
        }
        self._write({"kind": "answer", **given})

    def write_sent(self, key: str, attempt: int) -> None:
        """Note that a request is about to leave."""
        self._write({"kind": "sent", "key": key, "attempt": attempt})

    def remember(self, name: str, value: object) -> None:
        """Keep a fact under a name; a later one replaces it."""
        self._write({"kind": "memory", "name": name, "value": value})

    def close(self) -> None:
        """Release the journal."""
        self.file.close()
