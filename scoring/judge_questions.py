"""What a language model is asked about a reply: multiple choice, the order of the options and the wording drawn for each question.

One question per attribute of the schema: which aspect's description fits the reply best; the aspect that was asked for is not
said. One about the fit to the conversation, on five levels. Models prefer some positions and letters whatever stands there (Zheng
et al., "Judging LLM-as-a-Judge", NeurIPS 2023), so that the order is drawn anew for every question by the seed and the reply's id;
with several orders each question is asked that often, with its options moved on, and the answers are averaged (Wang et al., "Large
Language Models are not Fair Evaluators", ACL 2024).
"""

import functools
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from common.errors import InputError
from common.schema import Schema, target_name

FIT = "fit"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SYSTEM = "You judge replies in conversations. You answer every question with the letter of one option and nothing else."
LEVELS = {
    "4": "It answers what was said last, and makes sense.",
    "3": "It answers what was said last, but something in it is odd.",
    "2": "It is about the same subject, but is no answer.",
    "1": "It has only a loose connection with what was said.",
    "0": "It has nothing to do with what was said, or makes no sense.",
}
WORDINGS = (
    "Which of these descriptions fits the reply best?",
    "How is the reply written and meant? Choose the description that is nearest to it.",
    "Read the reply once more. Which of these would you say of it?",
)
FIT_WORDINGS = (
    "How well does the reply fit the conversation?",
    "How good an answer is the reply to what was said last?",
    "Somebody said what stands above and got this reply. Which of these is true of it?",
)
SPEAKERS = ("User", "Other person")


@dataclass(frozen=True)
class Question:
    """One question about one reply; what `dataset.synthesis.service.Service` calls a task.

    Attributes:
        id: of the reply, unique in its file.
        subject: an attribute's name, or `FIT`.
        order: which of several orders of the options, from 0.
        options: names of the options as they are shown: aspects, or levels of `LEVELS`.
        texts: what stands behind each letter.
        wording: the question.
        settings: what else decides the answer; part of the key.
    """

    id: str
    subject: str
    order: int
    context: tuple[str, ...]
    reply: str
    options: tuple[str, ...]
    texts: tuple[str, ...]
    wording: str
    settings: dict = field(default_factory=dict, hash=False)

    @functools.cached_property
    def key(self) -> str:
        """The question's name in the journal; another model or another text makes another question."""
        content = json.dumps([self.messages(), self.settings], sort_keys=True, ensure_ascii=False)
        return f"{self.id}|{self.subject}|{self.order}|{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    @property
    def number(self) -> int:
        """What is added to the seed that a server is sent."""
        return self.order

    def messages(self) -> list[dict[str, str]]:
        """The chat that asks."""
        turns = [f"{SPEAKERS[number % 2]}: {turn}" for number, turn in enumerate(self.context)]
        options = [f"{LETTERS[number]}) {text}" for number, text in enumerate(self.texts)]
        user = "\n".join(
            [
                "The conversation:",
                *turns,
                "",
                f"The reply to be judged: {self.reply or '(empty)'}",
                "",
                self.wording,
                *options,
                "",
                f"Answer with one letter, {', '.join(LETTERS[: len(options) - 1])} or {LETTERS[len(options) - 1]}.",
            ]
        )
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]

    def repair_messages(self, answer: str, reason: str) -> list[dict[str, str]]:
        """The chat that asks once more after an answer that could not be read."""
        again = f"That cannot be read: {reason}. Answer with the letter alone."
        return [
            *self.messages(),
            {"role": "assistant", "content": answer[:500]},
            {"role": "user", "content": again},
        ]


def reply_ids(rows: Sequence[dict]) -> list[str]:
    """A name for every row: its id and target, which several seeds of a file may share; those are numbered."""
    seen: dict[str, int] = {}
    names = []
    for row in rows:
        name = f"{row['id']}/{target_name(row['target'])}"
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def questions_of(
    rows: Sequence[dict], schema: Schema, seed: int, orders: int, settings: dict, fit: bool = True
) -> list[Question]:
    """Every question about every reply.

    Args:
        rows: checked generations.
        seed: of order and wording.
        orders: how often each question is asked, with its options in different orders.
        settings: the model and how it is sampled.

    Raises:
        InputError: where an attribute has more aspects than there are letters.
    """
    found = []
    for row, name in zip(rows, reply_ids(rows)):
        for attribute in schema.attributes:
            if len(attribute.aspects) > len(LETTERS):
                raise InputError(
                    f"{attribute.name} has {len(attribute.aspects)} aspects; at most {len(LETTERS)} can be asked about"
                )
            described = attribute.descriptions or {}
            texts = {aspect: f"{aspect}: {described.get(aspect, aspect)}" for aspect in attribute.aspects}
            found += _asked(row, name, attribute.name, texts, WORDINGS, seed, orders, settings)
        if fit:
            found += _asked(row, name, FIT, LEVELS, FIT_WORDINGS, seed, orders, settings)
    return found


def _asked(
    row: dict,
    name: str,
    subject: str,
    texts: dict[str, str],
    wordings: tuple[str, ...],
    seed: int,
    orders: int,
    settings: dict,
) -> list[Question]:
    """A question in so many orders: a drawn one and its rotations; levels, which have an order of their own, up or down."""
    rng = random.Random(f"{seed}|{name}|{subject}")
    if subject == FIT:
        up = rng.random() < 0.5
        arranged = [list(texts) if (order % 2 == 0) == up else list(texts)[::-1] for order in range(orders)]
    else:
        drawn = rng.sample(list(texts), len(texts))
        turns = (order % len(drawn) for order in range(orders))
        arranged = [drawn[turn:] + drawn[:turn] for turn in turns]
    start = rng.randrange(len(wordings))
    return [
        Question(
            name,
            subject,
            order,
            tuple(row["context"]),
            row["response"],
            tuple(options),
            tuple(texts[option] for option in options),
            wordings[(start + order) % len(wordings)],
            settings,
        )
        for order, options in enumerate(arranged)
    ]
