"""Replies that a CVAE writes to training contexts, and which of them are fit to train on.

Best-of-n distillation: of several candidates per context and combination of aspects the best by the model's own scores is
kept, and trained on where it is good enough (vBoN: Amini et al., ICLR 2025; BoNBoN: Gui et al., NeurIPS 2024; RiC: Yang et
al., ICML 2024, who also condition on the scores' targets). We train on the replies' likelihood, as a supervised set beside
the real one, not on the best-of-n policy's density.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.jsonl import read_jsonl
from common.parts import Parts
from common.schema import Schema, target_name
from dataset.dialogues import every_nth, parse_dialogue, read_attribute_dialogues
from generation.choosing import CandidateScores
from generation.generator import ReplyGenerator
from generation.kept import chunks_of, request_hash
from generation.options import ControlArguments, DecodingArguments
from generation.record import timed
from generation.requests import Drafts, Request
from training.marginal_relevance import marginally_best

Context = tuple[str, ...]
Target = dict[str, str]


@dataclass(frozen=True)
class SelfWritten:
    """The best of the candidates for one context and combination, with its scores by the model that wrote it.

    Attributes:
        probability: of all named aspects together, by the latent heads, in [0, 1].
        fluency, relevance: nats per token, see `generation.choosing.CandidateScores`; None where they did not count.
    """

    context: Context
    target: Target
    response: str
    probability: float
    fluency: float | None
    relevance: float | None


@dataclass(frozen=True)
class Acceptance:
    """Which replies are trained on.

    A probability that all combinations must reach would leave out those that the data never show together: the heads give
    them less, however well they are written. So the best of each combination are taken.

    Attributes:
        best_share: of each combination's replies, the most probable ones that may be accepted.
        threshold: least probability of all named aspects together.
        least_relevance: least relevance in nats per token; minus infinity: any, also where it is not known.
        copies: how many of the accepted replies may have the same words.
        diversity: what a reply's probability loses, where the best share is taken, if all of its bigrams stand in replies of
            the same combination that were taken before (`training.marginal_relevance`).
    """

    best_share: float
    threshold: float
    least_relevance: float
    copies: int
    diversity: float = 0.0

    def accepted(self, written: list[SelfWritten]) -> list[SelfWritten]:
        """Those that are accepted, in order; of more than `copies` equal replies the first ones."""
        replies: list[SelfWritten] = []
        counts: dict[str, int] = {}
        best = self._best(written)
        for number, one in enumerate(written):
            words = normalised(one.response)
            if number in best and self._good(one) and counts.get(words, 0) < self.copies:
                counts[words] = counts.get(words, 0) + 1
                replies.append(one)
        return replies

    def _best(self, written: list[SelfWritten]) -> set[int]:
        """Positions of every combination's best replies; of equal ones the first."""
        positions: dict[str, list[int]] = {}
        for number, one in enumerate(written):
            positions.setdefault(target_name(one.target), []).append(number)
        return {
            own[index]
            for own in positions.values()
            for index in marginally_best(
                [written[number].response for number in own],
                [written[number].probability for number in own],
                math.ceil(self.best_share * len(own)),
                self.diversity,
            )
        }

    def _good(self, one: SelfWritten) -> bool:
        relevant = self.least_relevance == -math.inf or (
            one.relevance is not None and one.relevance >= self.least_relevance
        )
        return bool(one.response.strip()) and one.probability >= self.threshold and relevant


def normalised(text: str) -> str:
    """A text by which two are compared word for word: spaces and capitals do not count."""
    return " ".join(text.casefold().split())


def evaluation_contexts(schema: Schema) -> dict[Context, str]:
    """The contexts of dev and test files, normalised -> ``file:line`` of the first; a test file that is not there has none.

    Raises:
        InputError: for a mistake in one of the files.
    """
    files = [path for a in schema.attributes for path in (a.dev_dialogues, a.test_dialogues)] + [schema.test]
    places_of: dict[Context, str] = {}
    for path in files:
        if path is not None and path.is_file():
            for where, context in _contexts_of(path, schema):
                places_of.setdefault(_normalised(context), where)
    return places_of


def training_contexts(
    schema: Schema, file: Path | None, most: int | None, limit: int | None
) -> list[Context]:
    """The contexts that replies are written to: the different ones of the training dialogues, or of a file.

    Args:
        file: dialogue or context file; None: the schema's training dialogues, of which those that also stand in a dev or test
            file are left out, which is said.
        most: so many of them, evenly spread; None: all.
        limit: rows of every training file, as for a training.

    Raises:
        InputError: for a context of `file` that stands in a dev or test file, with both lines; and where no context is left.
    """
    kept_apart = evaluation_contexts(schema)
    if file is not None:
        for where, context in _contexts_of(file, schema):
            if there := kept_apart.get(_normalised(context)):
                raise InputError(
                    f"{where}: this context stands in {there} too; replies to train on are never written to dev or test contexts"
                )
        different = list(dict.fromkeys(context for _, context in _contexts_of(file, schema)))
    else:
        dialogues = read_attribute_dialogues(schema, "train", limit).values()
        every = list(dict.fromkeys(dialogue.context for some in dialogues for dialogue in some))
        different = [context for context in every if _normalised(context) not in kept_apart]
        if len(different) < len(every):
            print(
                f"self-training: {len(every) - len(different)} of {len(every)} training contexts stand in a dev or test file and are left out",
                flush=True,
            )
    if not different:
        raise InputError(f"{file or schema.path}: no training context is left to write replies to")
    return every_nth(different, most)


def _contexts_of(path: Path, schema: Schema) -> Iterator[tuple[str, Context]]:
    return (
        (where, parse_dialogue(row | {"tag": None}, schema, where, "0").context)
        for where, row in read_jsonl(path)
    )


def _normalised(context: Context) -> Context:
    return tuple(normalised(turn) for turn in context)


def requests_for(contexts: list[Context], targets: list[Target]) -> list[Request]:
    """A request for every context and combination; ids are the contexts' numbers."""
    return [
        Request(str(number), context, target) for number, context in enumerate(contexts) for target in targets
    ]


def write_replies(
    path: Path, generator: ReplyGenerator, folder: Path, requests: list[Request], control: ControlArguments, how: DecodingArguments,
    cvae: str | None,
) -> Parts:  # fmt: skip
    """Write the best reply to every request, part by part, into a file; what it holds already of the same is not written again.

    Args:
        folder: of the CVAE that writes, whose files decide what comes out.
        cvae: the hash of its weights as they were trained.
    """
    parts = Parts(path, request_hash(generator, folder, requests, control, how, cvae))
    chunks = chunks_of(requests, control, how)
    if parts:
        print(
            f"self-training: going on behind {sum(map(len, chunks[: len(parts)]))} of {len(requests)} replies",
            flush=True,
        )
    for chunk in chunks[len(parts) :]:
        seconds: dict[str, float] = {}
        drafts = generator.drafts(chunk, control, how, seconds)
        scores = drafts.scores or timed(
            seconds, "choosing", _scores_of, generator, chunk, drafts, control, how
        )
        best = scores.best(control.candidates, control.fluency, control.relevance)
        kept = [number * control.candidates + index for number, index in enumerate(best)]
        rows = [_row(request, drafts.texts[index], scores, index) for request, index in zip(chunk, kept)]
        parts.close_part(rows, {"seconds": seconds})
    return parts


def _scores_of(
    generator: ReplyGenerator,
    requests: list[Request],
    drafts: Drafts,
    control: ControlArguments,
    how: DecodingArguments,
) -> CandidateScores:
    likelihoods = control.fluency > 0 or control.relevance > 0
    return generator.candidate_scores(requests, drafts.texts, drafts.sample, how, likelihoods)


def _row(request: Request, response: str, scores: CandidateScores, index: int) -> dict:
    def of(values) -> float | None:
        return None if values is None else round(float(values[index]), 6)

    return {
        "context": list(request.context),
        "target": request.target,
        "response": response,
        "probability": round(math.exp(float(scores.attributes[index])), 6),
        "fluency": of(scores.fluency),
        "relevance": of(scores.relevance),
    }


def read_written(parts: Parts) -> list[SelfWritten]:
    """The replies of `write_replies`; raises `InputError` for a file that is damaged."""
    try:
        return [SelfWritten(tuple(row["context"]), row["target"], row["response"], row["probability"], row["fluency"], row["relevance"]) for row in parts.rows()]  # fmt: skip
    except KeyError as error:
        raise InputError(f"{parts.path}: a row without {error}; delete the file to begin again") from None


def seconds_of(parts: Parts) -> float:
    """Wall-clock seconds that the replies took, those of ended runs included."""
    return round(sum(sum(note["seconds"].values()) for note in parts.notes), 1)


def dialogue_row(one: SelfWritten, schema: Schema) -> dict:
    """A reply as a row of a dialogue file with all its labels."""
    users, replies = one.context[::2], one.context[1::2]
    return {
        "input": list(users),
        "output": [*replies, one.response],
        "tag": [one.target.get(name) for name in schema.names],
    }


def by_target(
    written: list[SelfWritten], accepted: list[SelfWritten], targets: list[Target]
) -> dict[str, dict[str, float | int | None]]:
    """By combination: replies written, accepted, the share of these, and the mean probability of all written ones."""

    def of(some: list[SelfWritten], name: str) -> list[SelfWritten]:
        return [one for one in some if target_name(one.target) == name]

    by_combination: dict[str, dict[str, float | int | None]] = {}
    for name in map(target_name, targets):
        all_of, good = of(written, name), of(accepted, name)
        by_combination[name] = {
            "written": len(all_of),
            "accepted": len(good),
            "share": round(len(good) / len(all_of), 4) if all_of else None,
            "probability": round(sum(one.probability for one in all_of) / len(all_of), 4) if all_of else None,
        }
    return by_combination
