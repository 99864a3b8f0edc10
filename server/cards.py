"""Character cards (version 2, the JSON that chat front ends exchange) as dials, by the run's own classifiers.

A card is text and nothing else here: of its fields the describing ones are read, ``{{char}}`` and ``{{user}}`` become
names, and no macro, script, regular expression or instruction of it is carried out.
"""

import re
from dataclasses import dataclass

import numpy as np

from common.errors import InputError
from miracle import Miracle
from server.dials import Dials

READ = ("description", "personality", "scenario", "first_mes", "mes_example")
LONGEST = 20_000  # characters of a card that are read
MOST_TEXTS = 64  # sentences that the classifiers read
LONGEST_NAME = 200  # characters of the name, which stands wherever the card says {{char}}
LEAST = 0.2  # a dial under this factor is left out
SENTENCE = re.compile(r"(?<=[.!?…])\s+|\n+")
MARK = re.compile(r"<[^<>]{0,200}>|\*|\{\{[^{}]{0,200}\}\}")


@dataclass(frozen=True)
class CardDials:
    """What a card became.

    Attributes:
        name: the character's.
        dials: to be shown and changed.
        probabilities: attribute -> aspect -> mean probability over the card's sentences.
        texts: how many sentences the classifiers read.
        read, unread: fields of the card that were read, and those that hold something and were not.
        first_message: the character's greeting, as plain text.
    """

    name: str
    dials: Dials
    probabilities: dict[str, dict[str, float]]
    texts: int
    read: list[str]
    unread: list[str]
    first_message: str


def card_data(card: object) -> dict:
    """The fields of a card; raises `InputError` for what is none."""
    if not isinstance(card, dict):
        raise InputError(f"a card is a JSON object, found {type(card).__name__}")
    if card.get("spec") not in (None, "chara_card_v2", "chara_card_v3"):
        raise InputError(f"spec is {card['spec']!r:.60}; expected 'chara_card_v2'")
    data = card.get("data", card) if card.get("spec") else card
    if not isinstance(data, dict):
        raise InputError("'data' of the card must be an object")
    for name in ("name", *READ):
        if not isinstance(data.get(name, ""), str):
            raise InputError(f"'{name}' of the card must be a text")
    if not any(data.get(name, "").strip() for name in READ):
        raise InputError(f"the card has no text; expected one of {', '.join(READ)}")
    return data


def plain(text: str, name: str) -> str:
    """A card's text without markup; ``{{char}}`` is the character, ``{{user}}`` the reader, other macros are left out."""
    text = re.sub(r"\{\{\s*char\s*\}\}|<BOT>", lambda _: name, text, flags=re.IGNORECASE)
    text = re.sub(r"\{\{\s*user\s*\}\}|<USER>", "you", text, flags=re.IGNORECASE)
    return MARK.sub(" ", text)


def name_of(data: dict) -> str:
    """The character's name; empty where the card has none."""
    return " ".join(data.get("name", "").split())[:LONGEST_NAME]


def sentences(data: dict) -> list[str]:
    """What the classifiers read of a card: its sentences, each once, those of all fields in turn."""
    name = name_of(data) or "the character"
    fields = []
    for key in READ:
        parts = SENTENCE.split(plain(data.get(key, "")[:LONGEST], name))
        fields.append([text for part in parts if len(text := " ".join(part.split())) > 3])
    found: dict[str, None] = {}
    for place in range(max(map(len, fields))):
        for texts in fields:
            if place < len(texts):
                found[texts[place]] = None
    return list(found)[:MOST_TEXTS]


def dials_of_card(card: object, model: Miracle) -> CardDials:
    """A card as dials.

    An attribute's aspect is the one with the greatest mean probability over the card's sentences. Its factor says how clear
    that is, 0 at chance and 1 at certainty, to one digit; under `LEAST` the attribute is left out.

    Raises:
        InputError: for what is no card, and for a run without evaluators.
    """
    data = card_data(card)
    if model.scorer is None:
        raise InputError("the run has no evaluators, so a card cannot be read")
    texts = sentences(data)
    if not texts:
        raise InputError("the card has no sentence that can be read")
    dials, probabilities = Dials(), {}
    for attribute in model.schema.attributes:
        mean = np.mean(model.scorer.evaluators[attribute.name].score_texts(texts), axis=0)
        probabilities[attribute.name] = {a: round(float(p), 4) for a, p in zip(attribute.aspects, mean)}
        best, chance = int(mean.argmax()), 1 / len(attribute.aspects)
        factor = round((float(mean[best]) - chance) / (1 - chance), 1)
        if factor >= LEAST:
            dials |= Dials({attribute.name: attribute.aspects[best]}, {attribute.name: factor})
    unread = sorted(key for key, value in data.items() if value and key not in (*READ, "name"))
    name = name_of(data)
    greeting = " ".join(plain(data.get("first_mes", "")[:LONGEST], name or "the character").split())
    read = [key for key in READ if data.get(key, "").strip()]
    return CardDials(name, dials, probabilities, len(texts), read, unread, greeting)
