"""Answers of a language model: found in whatever text came back, and checked before anything is trained on them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dataset.synthesis.tasks import Persona
from dataset.words import CHARACTERS_PER_WORD, unspaced, within_words, words

USER_WORDS = (2, 60)
REPLY_WORDS = (3, 80)
REFUSAL = re.compile(
    r"\bas an ai\b|\bas a language model\b|\bi(?:'m| am) (?:sorry|afraid),? (?:but )?i (?:can(?:'|no)t|am unable|am not able)|"
    r"\bi (?:can(?:'|no)t|won't) (?:help with|assist with|comply|fulfil|write (?:that|this))",
    re.IGNORECASE,
)
REASONING = (
    (r"<think(?:ing)?>", r"</think(?:ing)?>"), (r"<(?:reasoning|thought|reflection|scratchpad)>", r"</(?:reasoning|thought|reflection|scratchpad)>"),
    (r"\[THINK\]", r"\[/THINK\]"), (r"◁think▷", r"◁/think▷"), (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    (r"<seed:think>", r"</seed:think>"), (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
)  # fmt: skip
LONGEST_NAME = 40  # characters in which a line names its speaker, marks included
LONGEST_ANSWER = 200_000  # characters; a dialogue has some thousand
MOST_BRACKETS = 2000  # of a text that are tried as the beginning of JSON
USER_NAMES, REPLY_NAMES = (
    ("user", "human", "a", "person a"),
    ("assistant", "reply", "bot", "b", "person b", "other person", "other"),
)


class Malformed(ValueError):
    """An answer that holds no usable dialogue; the message says why, in words that the model can act on."""


class Refusal(ValueError):
    """An answer in which the model declines; asking again would not help."""


@dataclass(frozen=True)
class Exchanges:
    """A dialogue: as many user turns as replies."""

    users: list[str]
    replies: list[str]


def read_answer(
    text: str, persona: Persona, turns: int, finish_reason: str | None = None, refusal: str | None = None
) -> Exchanges:
    """The dialogue in an answer.

    Args:
        finish_reason, refusal: as the service reports them, where it does.

    Raises:
        Refusal: the model or its filter declined.
        Malformed: no dialogue, wrong roles or number of turns, turns too short or too long, an aspect named.
    """
    if refusal or finish_reason == "content_filter":
        raise Refusal(f"the service declined: {refusal or 'content filter'}")
    if finish_reason == "length":
        raise Malformed("the answer was cut off; be shorter")
    if len(text) > LONGEST_ANSWER:
        raise Malformed(f"the answer has {len(text)} characters; be shorter")
    text = without_reasoning(text)
    reason: Malformed | Refusal | None = None
    try:
        for dialogue in reversed(dialogues_in(text)):  # before the one that is meant may stand drafts
            try:
                check_dialogue(dialogue, persona, turns)
            except (Malformed, Refusal) as error:
                reason = reason or error
            else:
                return dialogue
    except Malformed as error:
        if REFUSAL.search(text):
            raise Refusal("the model declined") from None
        raise error
    assert reason is not None  # every candidate was refused for one
    raise reason


def without_reasoning(text: str) -> str:
    """The text without what a reasoning model thought first: its drafts are no answer.

    Known are the marks of the models that write their reasoning into the answer (``<think>``, ``[THINK]``, Harmony's
    channels, ...); of an end without a beginning, which some servers leave, everything before it goes.
    """
    if "<|channel|>" in text:  # Harmony: the last channel named final is the answer
        text = _last_final(text)
        text = re.sub(r"<\|(?:end|return|start|call)\|>.*", "", text, flags=re.DOTALL)
    for begin, end in REASONING:
        text = _outside(text, begin, end)
    return text.strip()


def _last_final(text: str) -> str:
    """What follows the last of Harmony's channels named final, all of it where there is none."""
    position = 0
    while (channel := text.find("<|channel|>final", position)) >= 0:
        message = text.find("<|message|>", channel)
        if message < 0:
            break
        position = message + len("<|message|>")
    return text[position:]


def _outside(text: str, begin: str, end: str) -> str:
    """A text without what stands between two marks, in one pass; a mark may lack its partner."""
    kept: list[str] = []
    position, inside = 0, False
    for mark in re.finditer(f"(?P<begin>{begin})|{end}", text, re.IGNORECASE):
        if mark["begin"] is None:
            if not inside:
                kept = []  # an end alone: everything before it was thought
            position, inside = mark.end(), False
        elif not inside:
            kept.append(text[position : mark.start()])
            inside = True  # to the text's end, where it was cut off before it came to an answer
    return "".join(kept) if inside else "".join(kept) + text[position:]


def find_dialogue(text: str) -> Exchanges:
    """The last dialogue in a text, see `dialogues_in`; raises `Malformed` where there is none."""
    return dialogues_in(text)[-1]


def dialogues_in(text: str) -> list[Exchanges]:
    """All dialogues in a text: JSON, JSON in a code fence or between other words, or lines such as ``User: ...``.

    Raises:
        Malformed: where there is none.
    """
    decoder = json.JSONDecoder(strict=False)  # line breaks inside strings are common, and harmless
    dialogues: list[Exchanges] = []
    reason: Malformed | None = None
    start = 0
    for _ in range(MOST_BRACKETS):
        if (match := re.compile(r"[{\[]").search(text, start)) is None:
            break
        start = match.start() + 1
        try:
            value, end = decoder.raw_decode(text, match.start())
            dialogue = _from_json(value)
        except Malformed as error:  # perhaps a draft, of which no part is taken for a dialogue
            reason, start = error, end
        except (ValueError, RecursionError):
            continue
        else:
            if dialogue is not None:
                dialogues.append(dialogue)
                start = end
    if not dialogues and reason is None and (dialogue := _from_lines(text)) is not None:
        dialogues.append(dialogue)
    if dialogues:
        return dialogues
    raise reason or Malformed(
        "no JSON dialogue was found in the answer" if text.strip() else "the answer was empty"
    )


def _from_json(parsed: object) -> Exchanges | None:
    """``{"dialogue": [...]}`` or the list itself, of ``{"user", "reply"}`` or ``{"role", "content"}`` objects."""
    if isinstance(parsed, dict):
        if {"user", "reply"} <= {str(key).lower() for key in parsed}:
            parsed = [parsed]
        else:
            inner = [value for value in parsed.values() if isinstance(value, list)]
            return _from_json(inner[0]) if len(inner) == 1 else None
    if not isinstance(parsed, list) or not parsed or not all(isinstance(item, dict) for item in parsed):
        return None
    turns: list[tuple[str, object]] = []
    for item in parsed:
        lowered = {str(key).lower(): value for key, value in item.items()}
        if "role" in lowered and "content" in lowered:
            turns.append((str(lowered["role"]), lowered["content"]))
        else:
            turns += [(key, value) for key, value in lowered.items() if _side(key)]
    return _alternating(turns)


def _from_lines(text: str) -> Exchanges | None:
    """``User: ...`` and ``Reply: ...`` lines, with or without Markdown's asterisks; other lines do not count."""
    turns: list[tuple[str, str]] = []
    open_turn = False  # a name and a colon whose words begin on a later line
    for line in filter(None, map(str.strip, text.splitlines())):
        if open_turn:
            turns[-1], open_turn = (turns[-1][0], line), False
            continue
        front, colon, _ = line[:LONGEST_NAME].partition(":")
        name = re.sub(r"^[^A-Za-z]+|[^A-Za-z]+$", "", front)
        if colon and _side(name):
            spoken = re.sub(r"^\W+", "", line[len(front) + 1 :])
            turns.append((name, spoken))
            open_turn = not spoken
    turns = [(name, turn.strip().strip('*"')) for name, turn in turns]
    return _alternating(turns) if turns else None


def _side(name: str) -> str | None:
    name = name.strip().lower()
    return "user" if name in USER_NAMES else "reply" if name in REPLY_NAMES else None


def _alternating(turns: Sequence[tuple[str, Any]]) -> Exchanges | None:
    """Turns by side; raises `Malformed` unless user and reply alternate, user first, and every turn is text."""
    sides = [_side(name) for name, _ in turns]
    if not turns or None in sides:
        return None
    if sides != ["user", "reply"] * (len(sides) // 2) or len(sides) % 2:
        raise Malformed("turns must alternate between user and reply, user first and reply last")
    texts = [turn for _, turn in turns]
    if not all(isinstance(turn, str) and turn.strip() for turn in texts):
        raise Malformed("a turn is empty or not text")
    if any("\ud800" <= letter <= "\udfff" or letter == "\ufffd" for turn in texts for letter in turn):
        raise Malformed("a turn has broken characters")
    texts = [" ".join(turn.split()) for turn in texts]
    return Exchanges(texts[::2], texts[1::2])


def check_dialogue(dialogue: Exchanges, persona: Persona, turns: int) -> None:
    """Raises `Malformed` or `Refusal` for a dialogue that should not be trained on."""
    if len(dialogue.replies) != turns:
        raise Malformed(f"it has {len(dialogue.replies)} exchanges; {turns} were asked for")
    for kind, texts, (low, high) in (
        ("user turn", dialogue.users, USER_WORDS),
        ("reply", dialogue.replies, REPLY_WORDS),
    ):
        for text in texts:
            if not within_words(text, low, high):
                unit = (
                    f"words (of a script without spaces, characters; {CHARACTERS_PER_WORD} count as a word)"
                    if unspaced(text)
                    else "words"
                )
                raise Malformed(f"a {kind} has {len(words(text))} {unit}; {low} to {high} are accepted")
    for reply in dialogue.replies:
        if REFUSAL.search(reply):
            raise Refusal("the model declined in a reply")
        for aspect in persona.aspects:
            if re.search(rf"\b{re.escape(aspect)}\b", reply, re.IGNORECASE):
                raise Malformed(f"a reply names its own character ({aspect!r})")
    if len(set(dialogue.replies)) < len(dialogue.replies):
        raise Malformed("two replies are the same")
