"""Formats in which people have dialogues and labelled texts, recognised row by row, and what each becomes here.

A row is a dict, whatever file it came from (`dataset.tables`). Known are ShareGPT (``conversations`` of from/value),
``messages`` of role/content, Alpaca (``instruction``, ``input``, ``output``, ``history``), lists of turns, pairs of a
prompt and a response under many names, and texts with a label.
"""

from dataclasses import dataclass
from typing import Any

from common.errors import InputError
from common.jsonl import advice, json_value

OURS, SHAREGPT, MESSAGES, ALPACA, TURNS, PAIR, TEXT = (
    "ours",
    "ShareGPT",
    "messages",
    "Alpaca",
    "turns",
    "prompt and response",
    "text",
)
CONVERSATIONS = (
    "conversations",
    "conversation",
    "messages",
    "chat",
    "dialogue",
    "dialog",
    "turns",
    "utterances",
)
ROLE_KEYS, TEXT_KEYS = (
    ("from", "role", "speaker", "author", "sender"),
    ("value", "content", "text", "message", "utterance"),
)
USERS = ("user", "human", "usr", "prompter", "customer", "question", "person a", "a")
REPLIES = (
    "assistant",
    "gpt",
    "chatgpt",
    "bot",
    "model",
    "ai",
    "agent",
    "reply",
    "answer",
    "bing",
    "bard",
    "person b",
    "b",
)
SYSTEMS = ("system", "developer")
PROMPTS = ("prompt", "question", "query", "user", "context", "message", "post", "input")
RESPONSES = ("response", "completion", "answer", "reply", "assistant", "output")
TEXTS = ("text", "sentence", "review", "utterance", "tweet", "comment")
LABELS = ("tag", "label", "labels", "aspect", "style", "sentiment", "emotion", "class", "category")


@dataclass(frozen=True)
class Taken:
    """A row as it was understood.

    Attributes:
        kind: one of the formats named above.
        how: which of its keys were taken for what, in words.
        turns: (``user`` or ``reply``, text) in order; empty for a text.
        text: of a labelled text, else None.
        left_out: what was not taken, in words.
    """

    kind: str
    how: str
    turns: list[tuple[str, str]]
    text: str | None = None
    left_out: tuple[str, ...] = ()


def first_of(row: dict, names: tuple[str, ...]) -> str | None:
    """The row's own spelling of the first of the names that it has, whatever the case; None where it has none."""
    spelled = {str(key).strip().lower(): key for key in row}
    return next((spelled[name] for name in names if name in spelled), None)


def _json_in(value: object) -> Any:
    """A value, or what JSON stands in it: tables hold lists as text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json_value(value)
        except ValueError:
            return value
    return value


def kind_of(row: dict) -> str | None:
    """The format that a row looks like; None for none that is known."""
    if isinstance(row.get("input"), list) and isinstance(row.get("output"), list):
        return OURS
    if (
        (key := first_of(row, CONVERSATIONS)) is not None
        and isinstance(turns := _json_in(row[key]), list)
        and turns
    ):
        if isinstance(turns[0], dict):
            return SHAREGPT if "value" in turns[0] else MESSAGES
        return TURNS
    if first_of(row, ("instruction",)) is not None:
        return ALPACA
    prompt, response = first_of(row, PROMPTS), first_of(row, RESPONSES)
    if prompt is not None and response is not None and prompt != response:
        return PAIR
    return TEXT if first_of(row, TEXTS) is not None else None


def hint(row: object, where: str) -> str:
    """What to add to a reader's error: the format that a row looks like, and how to bring its file in; or nothing."""
    kind = kind_of(row) if isinstance(row, dict) else None
    if kind in (None, OURS):
        return ""
    return f"; this looks like {'a ' if kind in (TURNS, PAIR, TEXT) else ''}{described(kind)} row, {advice(where)}"


def described(kind: str) -> str:
    """A format's name for a sentence."""
    return {
        TURNS: "list-of-turns",
        PAIR: "prompt-and-response",
        TEXT: "text-and-label",
        MESSAGES: "'messages'",
    }.get(kind, kind)


def taken(row: dict, where: str, user: str | None = None, reply: str | None = None) -> Taken:
    """What a row holds.

    Args:
        user, reply: keys of a prompt and a response, where they are named by the user.

    Raises:
        InputError: with `where` in front, for a row of no known format or one that breaks its own.
    """
    if user or reply:
        return _pair(row, user, reply, where)
    kind = kind_of(row)
    if kind == OURS:
        inputs, outputs = row["input"], row["output"]
        order = [turn for pair in zip(inputs, outputs) for turn in zip(("user", "reply"), pair)] + [
            ("user", turn) for turn in inputs[len(outputs) :]
        ]
        return Taken(OURS, "'input' and 'output' as they are", _texts(order, where))
    if kind in (SHAREGPT, MESSAGES, TURNS):
        key = str(first_of(row, CONVERSATIONS))
        return _conversation(kind, key, _json_in(row[key]), where)
    if kind == ALPACA:
        return _alpaca(row, where)
    if kind == PAIR:
        prompt, response = first_of(row, PROMPTS), first_of(row, RESPONSES)
        return _pair(row, prompt, response, where)
    if kind == TEXT:
        key = str(first_of(row, TEXTS))
        return Taken(TEXT, f"text from {key!r}", [], _text(row[key], where, key))
    raise InputError(
        f"{where}: no format that is known; found the keys {sorted(map(str, row))[:8]}, expected 'conversations', 'messages', 'instruction', "
        "'prompt' and 'response', or 'text'; name them with --user-from and --reply-from"
    )


def _text(value: object, where: str, name: str) -> str:
    """A text, or the text parts of a list of them; raises `InputError` for anything else, and for an empty one."""
    if (
        isinstance(value, list)
        and value
        and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value)
    ):
        value = " ".join(part["text"] for part in value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name!r} must be a text that is not empty, found {value!r:.60}")
    return " ".join(value.split())


def _texts(turns: list[tuple[str, object]], where: str) -> list[tuple[str, str]]:
    return [(side, _text(turn, where, f"turn {number}")) for number, (side, turn) in enumerate(turns, 1)]


def _conversation(kind: str, key: str, items: list, where: str) -> Taken:
    if kind == TURNS:
        if all(isinstance(item, list) and len(item) == 2 for item in items):
            items = [turn for pair in items for turn in pair]
        turns = [(("user", "reply")[position % 2], item) for position, item in enumerate(items)]
        return Taken(TURNS, f"{key!r}: turns by turns, user first", _texts(turns, where))
    turns, left_out = [], []
    role_key = text_key = None
    for number, item in enumerate(items, 1):
        role_key, text_key = (
            first_of(item, names) if isinstance(item, dict) else None for names in (ROLE_KEYS, TEXT_KEYS)
        )
        if role_key is None or text_key is None:
            raise InputError(
                f"{where}: turn {number} of {key!r} has no speaker or no text; expected {{'from', 'value'}} or {{'role', 'content'}}, found {item!r:.60}"
            )
        role = str(item[role_key]).strip().lower()
        if role in SYSTEMS:
            left_out.append("system messages")
            continue
        side = "user" if role in USERS else "reply" if role in REPLIES else None
        if side is None:
            raise InputError(
                f"{where}: turn {number} of {key!r} is said by {item[role_key]!r:.40}; known are human or user, and gpt or assistant"
            )
        turns.append((side, _text(item[text_key], where, f"turn {number}")))
    return Taken(kind, f"{key!r}: {role_key} and {text_key} of every turn", turns, left_out=tuple(left_out))


def _alpaca(row: dict, where: str) -> Taken:
    instruction, response = first_of(row, ("instruction",)), first_of(row, RESPONSES)
    if response is None or response == "input":
        raise InputError(
            f"{where}: an 'instruction' without an 'output'; found the keys {sorted(map(str, row))[:8]}"
        )
    history = _json_in(row.get("history")) or []
    if not isinstance(history, list) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history
    ):
        raise InputError(
            f"{where}: 'history' must be a list of [prompt, response] pairs, found {history!r:.60}"
        )
    more = row.get("input")
    prompt = " ".join(part for part in (row[instruction], more) if isinstance(part, str) and part.strip())
    turns = [turn for pair in history for turn in zip(("user", "reply"), pair)] + [
        ("user", prompt),
        ("reply", row[response]),
    ]
    left_out = ("system messages",) if isinstance(row.get("system"), str) and row["system"].strip() else ()
    return Taken(
        ALPACA,
        f"user from {instruction!r} and 'input', reply from {response!r}, earlier turns from 'history'",
        _texts(turns, where),
        left_out=left_out,
    )


def _pair(row: dict, user: str | None, reply: str | None, where: str) -> Taken:
    for name in filter(None, (user, reply)):
        if name not in row:
            raise InputError(f"{where}: no {name!r}; found the keys {sorted(map(str, row))[:8]}")
    user, reply = user or first_of(row, PROMPTS), reply or first_of(row, RESPONSES)
    if user is None or reply is None:
        raise InputError(
            f"{where}: no {'prompt' if user is None else 'response'} is known among the keys {sorted(map(str, row))[:8]}; name it with --user-from and --reply-from"
        )
    return Taken(
        PAIR,
        f"user from {user!r}, reply from {reply!r}",
        _texts([("user", row[user]), ("reply", row[reply])], where),
    )


def exchanges(
    turns: list[tuple[str, str]], where: str, contexts: bool = False
) -> tuple[list[str], list[str], list[str]]:
    """Turns as (user turns, replies, what was left out): neighbouring turns of one side are one, the user is first.

    A last user turn without a reply is left out, or kept where `contexts` are wanted, whose replies are still to be written.

    Raises:
        InputError: where nothing is left.
    """
    left_out: list[str] = []
    joined: list[tuple[str, str]] = []
    for side, text in turns:
        if joined and joined[-1][0] == side:
            joined[-1] = (side, f"{joined[-1][1]} {text}")
            left_out.append("borders between turns of one speaker")
        else:
            joined.append((side, text))
    if joined and joined[0][0] == "reply":
        joined.pop(0)
        left_out.append("first turns that are replies")
    if joined and joined[-1][0] == "user" and not contexts:
        joined.pop()
        left_out.append("last turns without a reply")
    if contexts and joined and joined[-1][0] == "reply":
        joined.pop()
        left_out.append("last replies (--contexts)")
    if not joined:
        raise InputError(
            f"{where}: no user turn with a reply in it{'' if contexts else '; bare contexts are taken with --contexts'}"
        )
    return (
        [text for side, text in joined if side == "user"],
        [text for side, text in joined if side == "reply"],
        left_out,
    )
