"""Coherence (NLI) data: reading an NLI file, or making pairs from dialogues where there is none."""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.jsonl import read_jsonl
from dataset.dialogues import Dialogue
from dataset.words import pieces, words

COHERENT = 1
INCOHERENT = 0
LABEL_NAMES = ["incoherent", "coherent"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A context (turns, user first and last), a response, whether the response fits (1) or not (0), and why not."""

    context: tuple[str, ...]
    response: str
    label: int
    kind: str


def read_nli(path: Path, limit: int | None = None) -> Iterator[Pair]:
    """Yield the pairs of ``{"input": turns joined by a newline, "output": response, "label": 0|1}`` rows.

    ``labels`` is accepted for ``label``. The file may be large: nothing is kept.

    Raises:
        InputError: naming file and line.
    """
    for number, (where, row) in enumerate(read_jsonl(path)):
        if limit is not None and number >= limit:
            return
        yield parse_pair(row, where)


def parse_pair(row: dict, where: str) -> Pair:
    """One row of an NLI file; raises `InputError` with `where` in front."""
    context, response, label = row.get("input"), row.get("output"), row.get("label", row.get("labels"))
    if not isinstance(context, str) or not context.strip():
        raise InputError(f"{where}: 'input' must be a non-empty string, found {context!r:.80}")
    if not isinstance(response, str):
        raise InputError(f"{where}: 'output' must be a string, found {response!r:.80}")
    if isinstance(label, bool) or not isinstance(label, int) or label not in (0, 1):
        raise InputError(f"{where}: 'label' must be 0 (incoherent) or 1 (coherent), found {label!r:.80}")
    return Pair(tuple(split_turns(context)), " ".join(response.split()), label, str(row.get("kind", "file")))


def split_turns(context: str) -> list[str]:
    """Turns of a context that is one string, a turn a line; blank lines do not count."""
    return [" ".join(turn.split()) for turn in context.split("\n") if turn.strip()]


# --- corrupted replies: what a degenerate generator writes, and what a coherence model must not call coherent ---------


def repeated(reply: str, rng: random.Random) -> str:
    """One to three neighbouring words of the reply, over and over."""
    words, between = pieces(reply)
    size = rng.randint(1, 3)
    start = rng.randrange(max(1, len(words) - size + 1))
    return between.join((words[start : start + size] * len(words))[: max(6, len(words))])


def shuffled(reply: str, rng: random.Random) -> str:
    """The reply's words in random order."""
    words, between = pieces(reply)
    order = rng.sample(words, len(words))
    return between.join(order if order != words else words[::-1])


def swapped(reply: str, rng: random.Random) -> str:
    """The reply's second half, then its first."""
    words, between = pieces(reply)
    middle = rng.randint(max(1, len(words) // 3), max(1, -(-2 * len(words) // 3)))
    return between.join(words[middle:] + words[:middle])


def neighbours(reply: str, rng: random.Random) -> str:
    """A third of the reply's words, at least two pairs, have changed places with the word behind them."""
    words, between = pieces(reply)
    for at in (
        rng.sample(range(len(words) - 1), min(len(words) - 1, max(2, len(words) // 6)))
        if len(words) > 1
        else []
    ):
        words[at], words[at + 1] = words[at + 1], words[at]
    return between.join(words)


def cut(reply: str, rng: random.Random) -> str:
    """The reply's first words, stopped in the middle of a sentence."""
    words, between = pieces(reply)
    kept = words[: rng.randint(1, max(1, min(len(words) // 2, 6)))]
    return between.join(kept).rstrip(".!?,;")


def empty_of_content(reply: str, rng: random.Random) -> str:
    """Nothing, punctuation, or the reply's short words alone."""
    words, between = pieces(reply)
    short = [word for word in words if len(word) <= 3] or ["to"]
    words = [rng.choice(short) for _ in range(rng.randint(3, 10))]
    return rng.choice(["", ".", "...", ". . . . . .", between.join(words), "... " + between.join(words)])


CORRUPTIONS = {
    "repeated": repeated,
    "shuffled": shuffled,
    "swapped": swapped,
    "neighbours": neighbours,
    "cut": cut,
    "empty": empty_of_content,
}


class _Negatives:
    """Draws a wrong reply for a dialogue: another dialogue's, a corrupted one, or the user's own words."""

    def __init__(self, dialogues: list[Dialogue]):
        self.dialogues = dialogues
        self.by_topic, self.by_opening, self.replies = defaultdict(list), defaultdict(list), defaultdict(set)
        for dialogue in dialogues:
            self.replies[dialogue.context[-1]].add(dialogue.response)
            self.by_topic[dialogue.topic].append(dialogue)
            self.by_opening[self._opening(dialogue)].append(dialogue)

    @staticmethod
    def _opening(dialogue: Dialogue) -> str:
        return (words(dialogue.reply) or [""])[0].lower()

    def _other(self, pool: list[Dialogue], dialogue: Dialogue, rng: random.Random) -> str | None:
        for _ in range(
            8
        ):  # a pool may hold nothing but replies to the same words; then there is no such negative
            other = rng.choice(pool)
            if other.response not in self.replies[dialogue.context[-1]]:
                return other.response
        return None

    def draw(self, dialogue: Dialogue, kind: str, rng: random.Random) -> tuple[str, str]:
        """Returns (reply, kind); a kind that this dialogue has none of becomes ``random``."""
        made = (
            CORRUPTIONS[kind](dialogue.reply, rng)
            if kind in CORRUPTIONS
            else dialogue.context[-1]
            if kind == "echo"
            else None
        )
        if made is not None and made not in self.replies[dialogue.context[-1]]:  # one word cannot be shuffled
            return made, kind
        pools = {
            "topic": self.by_topic[dialogue.topic] if dialogue.topic else [],
            "opening": self.by_opening[self._opening(dialogue)],
        }
        reply = self._other(pools[kind], dialogue, rng) if pools.get(kind) else None
        if reply is not None:
            return reply, kind
        reply = self._other(self.dialogues, dialogue, rng)
        return (reply, "random") if reply is not None else ("", "empty")


NEGATIVE_KINDS = (
    "random",
    "repeated",
    "random",
    "shuffled",
    "topic",
    "swapped",
    "random",
    "cut",
    "topic",
    "neighbours",
    "empty",
    "opening",
    "echo",
)


def make_pairs(dialogues: list[Dialogue], rounds: int, seed: int) -> list[Pair]:
    """Coherence pairs from dialogues: every true reply `rounds` times, each time beside one wrong reply.

    The wrong replies go through `NEGATIVE_KINDS`: replies to something else (at random, from the same topic, with the
    same opening word), corrupted true replies, and the user's own words sent back.

    Raises:
        InputError: with fewer than two different contexts there is no wrong reply to take.
    """
    if len({dialogue.context[-1] for dialogue in dialogues}) < 2:
        raise InputError("NLI pairs need dialogues with at least two different last user turns")
    negatives = _Negatives(dialogues)
    pairs = []
    for number, dialogue in enumerate(dialogues):
        rng = random.Random(f"{seed}-{number}")
        first = rng.randrange(len(NEGATIVE_KINDS))
        for round_ in range(rounds):
            reply, kind = negatives.draw(
                dialogue, NEGATIVE_KINDS[(first + round_) % len(NEGATIVE_KINDS)], rng
            )
            pairs.append(Pair(dialogue.context, dialogue.reply, COHERENT, "true"))
            pairs.append(Pair(dialogue.context, reply, INCOHERENT, kind))
    return pairs
