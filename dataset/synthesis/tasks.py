"""What is asked for: one task per dialogue, and the prompt that asks for it."""

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from common.schema import Schema

OPENINGS = (  # how the user begins; dialogues on one topic go through them, so that they differ
    "The user asks for practical advice about something specific.",
    "The user tells of something that happened today and ends with a question.",
    "The user makes a remark without asking anything.",
    "The user cannot decide between two concrete things.",
    "The user worries about something that may happen soon.",
    "The user is pleased about something and wants to share it.",
    "The user asks what the other person would do.",
    "The user has heard an opinion about it and wants another one.",
)


@dataclass(frozen=True)
class Persona:
    """The aspects that the replies are to show, and what each of them means in words."""

    target: dict[str, str]  # attribute -> aspect, schema order
    descriptions: dict[str, str]  # aspect -> what a reply of that aspect is like

    @property
    def aspects(self) -> list[str]:
        """The aspects' names, in the schema's order of attributes."""
        return list(self.target.values())

    @property
    def name(self) -> str:
        """``plain+optimistic``."""
        return "+".join(self.aspects)


@dataclass(frozen=True)
class Task:
    """One dialogue to be written.

    Attributes:
        number: the dialogue's number among those on its topic, from 0.
        turns: exchanges, each a user turn and a reply.
        settings: what else decides the answer (model, temperature, ...); part of the key.
    """

    persona: Persona
    topic: str
    number: int
    turns: int
    settings: dict = field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """The task's name in the journal; other settings or another prompt make another task."""
        content = json.dumps([self.messages(), self.settings], sort_keys=True, ensure_ascii=False)
        return f"{self.persona.name}|{self.topic}|{self.number}|{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def messages(self) -> list[dict[str, str]]:
        """The chat that asks for the dialogue."""
        traits = "\n".join(f"- {self.persona.descriptions[aspect]}" for aspect in self.persona.aspects)
        together = (
            " All of these sound in one and the same voice, in every reply."
            if len(self.persona.aspects) > 1
            else ""
        )
        system = (
            "You write short, natural dialogues between a user and another person. The other person has a character of their own:\n"
            f"{traits}\n"
            f"Show this only in how the replies are said and what they say; never name it or talk about it.{together} "
            "The user has no particular character. Everyday spoken language, no stage directions, no emoji, no lists."
        )
        user = (
            f"Topic: {self.topic}\n{OPENINGS[self.number % len(OPENINGS)]}\n"
            f"Write {self.turns} exchange{'s' if self.turns > 1 else ''}. A user turn has 5 to 25 words, a reply 10 to 35 words. Each reply takes up "
            "something concrete that the user has just said.\n"
            'Answer with JSON only: {"dialogue": [{"user": "...", "reply": "..."}'
            + (", ..." if self.turns > 1 else "")
            + "]}"
        )
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def repair_messages(self, answer: str, reason: str) -> list[dict[str, str]]:
        """The chat that asks once more after an answer that cannot be used."""
        again = f"This cannot be used: {reason}. Write the dialogue again, with everything as asked for, as JSON only."
        return [
            *self.messages(),
            {"role": "assistant", "content": answer},
            {"role": "user", "content": again},
        ]


def answer_schema(turns: int) -> dict:
    """The JSON schema of an answer, for servers that can hold a model to one."""
    exchange = {
        "type": "object",
        "properties": {"user": {"type": "string"}, "reply": {"type": "string"}},
        "required": ["user", "reply"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "dialogue": {"type": "array", "items": exchange, "minItems": turns, "maxItems": turns}
        },
        "required": ["dialogue"],
        "additionalProperties": False,
    }


def read_topics(path: Path, limit: int | None = None) -> list[str]:
    """One topic a line; blank lines and those that begin with ``#`` do not count, repeated topics count once.

    Raises:
        InputError: where the file is missing or has no topic.
    """
    if not path.is_file():
        raise InputError(f"topics not found: {path}; a text file with one topic a line")
    try:
        lines = (" ".join(line.split()) for line in path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None
    topics = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not topics:
        raise InputError(f"{path}: no topic in it; one topic a line is expected")
    return topics[:limit]


def persona_of(schema: Schema, aspects: list[str]) -> Persona:
    """The persona of one or several aspects.

    Raises:
        InputError: for an unknown aspect, two of one attribute, or an aspect that the schema does not describe.
    """
    target = schema.target(aspects)
    descriptions = {}
    for name, aspect in target.items():
        text = (schema.attribute(name).descriptions or {}).get(aspect)
        if not text:
            raise InputError(
                f'{schema.path}: {name} does not describe {aspect!r}; add "descriptions": {{"{aspect}": "..."}}, what such a reply is like'
            )
        descriptions[aspect] = " ".join(text.split())
    return Persona(target, descriptions)
