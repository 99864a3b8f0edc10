"""Per-reply values of every metric, gathered chunk by chunk, so that memory does not grow with what a row holds."""

import hashlib
from dataclasses import dataclass

import numpy as np

from common.schema import Schema, target_name
from dataset.words import letter_words
from scoring.metrics import OF_REPLY
from scoring.text_metrics import (
    BLEU_STATISTICS,
    TOKENIZERS,
    bleu_statistics,
    bleu_tokenizer,
    rouge,
    sentence_bleu,
)

MEANS = (
    "accuracy_mean", "accuracy_joint", "probability_mean", "nli", "bleu1", "bleu2", "bleu3", "bleu4", "rouge1", "rouge2", "rougeL",
    *OF_REPLY,
)  # fmt: skip
NOTES = (
    "tokenizer",
    "wordless",
)  # of references: sacrebleu's tokenizer, by its number; 1 where the reference has no letter
SUMS = ("nats", "tokens", *(f"bleu_statistic{i}" for i in range(BLEU_STATISTICS)))


@dataclass(frozen=True)
class Columns:
    """Values of N replies.

    Attributes:
        names: of the columns of `values`: `MEANS`, `SUMS`, `NOTES`, and ``<attribute>.accuracy``, ``<attribute>.probability``.
        values: [N, M]; NaN where a metric does not apply to a reply.
        wanted, predicted: [N, attributes], aspect indices; -1 where the target names none, or the reply is not scored.
        context, request: [N], equal numbers for equal contexts (and targets).
        target: [N], numbers into `targets`.
        replies: the texts.
    """

    schema: Schema
    names: list[str]
    values: np.ndarray
    wanted: np.ndarray
    predicted: np.ndarray
    context: np.ndarray
    request: np.ndarray
    target: np.ndarray
    targets: list[str]
    replies: list[str]

    def __len__(self) -> int:
        return len(self.replies)

    def column(self, name: str) -> np.ndarray:
        """One column, [N]."""
        return self.values[:, self.names.index(name)]

    def take(self, rows: np.ndarray) -> "Columns":
        """Some of the replies, in the order given."""
        arrays = {
            name: getattr(self, name)[rows]
            for name in ("values", "wanted", "predicted", "context", "request", "target")
        }
        return Columns(
            self.schema, self.names, **arrays, targets=self.targets, replies=[self.replies[i] for i in rows]
        )

    def summary(self) -> dict:
        """What was asked for: numbers of replies and contexts, the targets, and a hash of contexts and targets."""
        used = sorted(self.targets[i] for i in set(self.target.tolist()))
        asked = f"{number_of(*map(str, sorted(self.request.tolist()))) & (1 << 64) - 1:016x}"
        counts = {"replies": len(self), "contexts": len(set(self.context.tolist()))}
        return {**counts, "targets": used, "hash": asked}


def number_of(*texts: str) -> int:
    """A number that stands for some texts, the same in every process; of 64 bits, so that a million differ."""
    joined = "\x00".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "little", signed=True)


class Gatherer:
    """Turns rows into `Columns`."""

    def __init__(self, schema: Schema):
        self.schema = schema
        self.names = [
            *MEANS,
            *SUMS,
            *NOTES,
            *(f"{name}.{kind}" for name in schema.names for kind in ("accuracy", "probability")),
        ]
        self.parts: list[np.ndarray] = []
        self.indices: list[np.ndarray] = []
        self.replies: list[str] = []
        self.contexts: list[int] = []
        self.requests: list[int] = []
        self.target_numbers: dict[str, int] = {}
        self.targets: list[int] = []
        self.numbers: list[int] = []  # of the parts taken in

    def add(self, rows: list[dict], number: int | None = None) -> None:
        """Take in checked generations (`scoring.generations`).

        Args:
            number: which part of a file they are, where several processes have parts of it (`joined`); None: the next.
        """
        self.numbers.append(len(self.numbers) if number is None else number)
        part = np.full((len(rows), len(self.names)), np.nan)
        position = {name: i for i, name in enumerate(self.names)}
        indices = np.full((len(rows), 2, len(self.schema.names)), -1, dtype=np.int16)

        def put(name: str, row: int, value: float) -> None:
            part[row, position[name]] = value

        for i, row in enumerate(rows):
            for name, value in self._scores(row, indices[i]).items():
                put(name, i, value)
            reply = row["response"]
            for name, metric in OF_REPLY.items():
                if (value := metric(row)) is not None:
                    put(name, i, value)
            self.replies.append(reply)
            self.contexts.append(number_of(*row["context"]))
            target = target_name(row["target"])
            self.requests.append(number_of(*row["context"], target))
            self.targets.append(self.target_numbers.setdefault(target, len(self.target_numbers)))
        referenced = [i for i, row in enumerate(rows) if row["reference"]]
        replies, references = (
            [rows[i]["response"] for i in referenced],
            [rows[i]["reference"] for i in referenced],
        )
        for name, values in rouge(replies, references).items():
            for i, value in zip(referenced, values):
                put(name, i, value)
        for i, reply, reference in zip(referenced, replies, references):
            statistics = bleu_statistics(reply, reference)
            part[i, position["bleu_statistic0"] : position["bleu_statistic0"] + BLEU_STATISTICS] = statistics
            put("tokenizer", i, TOKENIZERS.index(bleu_tokenizer(f"{reference} {reply}")))
            put("wordless", i, not letter_words(reference))
            for n in (1, 2, 3, 4):
                put(f"bleu{n}", i, sentence_bleu(statistics, n))
        self.parts.append(part)
        self.indices.append(indices)

    def _scores(self, row: dict, indices: np.ndarray) -> dict[str, float]:
        """The evaluators' values of a row; fills in the aspect indices [2, attributes], wanted and predicted."""
        found = {key: row[key] for key in ("nli", "nats", "tokens") if row[key] is not None}
        if not row["predicted"] or not row["target"]:
            return found
        right, chances = [], []
        for k, attribute in enumerate(self.schema.attributes):
            wanted = row["target"].get(attribute.name)
            if wanted is None:
                continue
            predicted = row["predicted"][attribute.name]
            indices[0, k], indices[1, k] = attribute.index(wanted), attribute.index(predicted)
            right.append(float(predicted == wanted))
            chances.append(row["probabilities"][attribute.name][wanted])
            found[f"{attribute.name}.accuracy"], found[f"{attribute.name}.probability"] = (
                right[-1],
                chances[-1],
            )
        means = {
            "accuracy_mean": np.mean(right),
            "accuracy_joint": float(all(right)),
            "probability_mean": np.mean(chances),
        }
        return found | means

    def finish(self) -> Columns:
        """All rows taken in; the gatherer is empty then, so that no value is held twice."""
        indices = _joined(self.indices, (2, len(self.schema.names)), np.int16)
        return Columns(
            self.schema,
            self.names,
            _joined(self.parts, (len(self.names),), np.float64),
            wanted=indices[:, 0],
            predicted=indices[:, 1],
            context=np.array(self.contexts, dtype=np.int64),
            request=np.array(self.requests, dtype=np.int64),
            target=np.array(self.targets, dtype=np.int64),
            targets=list(self.target_numbers),
            replies=self.replies,
        )


def _joined(parts: list[np.ndarray], shape: tuple[int, ...], kind: type) -> np.ndarray:
    """Arrays [n, *shape] behind one another; each leaves the list as it is copied."""
    joined = np.empty((sum(map(len, parts)), *shape), dtype=kind)
    begin = 0
    parts.reverse()
    while parts:
        part = parts.pop()
        joined[begin : begin + len(part)] = part
        begin += len(part)
    return joined


def joined(gatherers: list[Gatherer]) -> Gatherer:
    """What several processes took in, as one that took in all parts in their order."""
    if len(gatherers) == 1 and gatherers[0].numbers == sorted(gatherers[0].numbers):
        return gatherers[0]
    found = Gatherer(gatherers[0].schema)
    places = sorted(
        (number, which, index)
        for which, gatherer in enumerate(gatherers)
        for index, number in enumerate(gatherer.numbers)
    )
    begins = [np.cumsum([0, *(len(part) for part in gatherer.parts)]) for gatherer in gatherers]
    names = [list(gatherer.target_numbers) for gatherer in gatherers]
    for number, which, index in places:
        source, rows = gatherers[which], slice(begins[which][index], begins[which][index + 1])
        found.numbers.append(number)
        found.parts.append(source.parts[index])
        found.indices.append(source.indices[index])
        found.replies += source.replies[rows]
        found.contexts += source.contexts[rows]
        found.requests += source.requests[rows]
        for target in source.targets[rows]:
            known = found.target_numbers
            found.targets.append(known.setdefault(names[which][target], len(known)))
    return found
