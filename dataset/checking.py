"""What there is to know about a schema's data before anything is trained on it: mistakes, balance, leaks, audibility."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.schema import Attribute, Schema, target_name
from dataset.duplicates import exact_copies, similar_pairs
from dataset.separability import LabelledTexts, give_away_words, held_out_accuracy
from dataset.sources import Item, Source, read_items, sources_of
from dataset.words import words

SENTENCE_END = re.compile(r"(?<=[.!?؟।])\s+|(?<=[。！？])\s*(?=.)")
FEW_WORDS = 10


@dataclass(frozen=True)
class Limits:
    """Where a finding becomes a warning; format mistakes, missing aspects and leakage are errors.

    Attributes:
        similarity: Jaccard similarity of word 3-grams above which two texts are near duplicates.
        leakage: share of a dev or test file's rows that training may have seen before it is an error; any is a warning.
        balance: rows of the most frequent aspect over those of the rarest.
        length_ratio: mean reply length of the longest-winded aspect over that of the tersest.
        audible: bag-of-words accuracy on unseen replies below which the texts are poor in personality.
        obvious: and above which they may be too easy to tell.
        few_words: the same with the ten most telling words alone.
        precision, recall: a single word with both gives its aspect away.
        distinct2: different word pairs over all word pairs of the training replies.
        sentence: how often one sentence may occur in the training replies.
    """

    similarity: float = 0.6
    leakage: float = 0.01
    balance: float = 1.5
    length_ratio: float = 1.10
    audible: float = 0.80
    obvious: float = 0.97
    few_words: float = 0.90
    precision: float = 0.70
    recall: float = 0.20
    distinct2: float = 0.35
    sentence: int = 3


@dataclass
class Collection:
    """All usable rows of one source."""

    source: Source
    items: list[Item]


def read_collections(schema: Schema, errors: list[str]) -> list[Collection]:
    """Every file of the schema but the NLI ones; the messages of unusable lines go to `errors`."""
    return [
        Collection(source, list(read_items(source, schema, errors)))
        for source in sources_of(schema)
        if source.kind != "nli"
    ]


def check(
    schema: Schema, collections: list[Collection], errors: list[str], limits: Limits = Limits()
) -> dict:
    """Report on the data of a schema.

    Args:
        collections, errors: what `read_collections` returned, and the messages that it left; more are added.

    Returns:
        ``{"files": [...], "attributes": {...}, "duplicates": {...}, "sentences": [...], "errors": [...], "warnings": [...]}``,
        ready for JSON.
    """
    warnings: list[str] = []
    files = [describe(collection) for collection in collections]
    for source in sources_of(schema):
        if source.kind == "nli":
            files.append(describe_nli(source, schema, errors))
    for collection in collections:
        check_aspects(collection, limits, errors, warnings)
    report = {
        "files": files,
        "attributes": {a.name: check_attribute(a, collections, limits, warnings) for a in schema.attributes},
        "duplicates": {
            unit: check_duplicates(unit, collections, limits, errors, warnings)
            for unit in ("reply", "context")
        },
        "sentences": repeated_sentences(collections, limits, warnings),
    }
    check_topics(collections, warnings)
    return report | {"errors": errors, "warnings": warnings}


def describe(collection: Collection) -> dict:
    """A file's row of the table."""
    items = collection.items
    counts = Counter(target_name(item.aspects) for item in items)
    return {
        "file": collection.source.path.name,
        "split": collection.source.split,
        "kind": collection.source.kind,
        "attribute": collection.source.attribute.name if collection.source.attribute else None,
        "rows": len(items),
        "aspects": dict(sorted(counts.items())),
        "turns": float(np.mean([item.turns for item in items])) if items else None,
        "topics": len({item.topic for item in items if item.topic}),
    }


def describe_nli(source: Source, schema: Schema, errors: list[str]) -> dict:
    """An NLI file's row of the table; the file may be large, and nothing of it is kept."""
    counts: Counter = Counter()
    turns = 0
    for item in read_items(source, schema, errors):
        counts["coherent" if item.label else "incoherent"] += 1
        turns += item.turns
    rows = sum(counts.values())
    row = {"file": source.path.name, "split": source.split, "kind": "nli", "attribute": None, "rows": rows}
    return row | {"aspects": dict(counts), "turns": turns / rows if rows else None, "topics": 0}


def check_aspects(collection: Collection, limits: Limits, errors: list[str], warnings: list[str]) -> None:
    """An aspect without a row in its attribute's file is an error; uneven numbers are a warning."""
    attribute = collection.source.attribute
    if attribute is None or not collection.items:
        return
    counts = Counter(item.aspects[attribute.name] for item in collection.items)
    missing = [aspect for aspect in attribute.aspects if not counts[aspect]]
    if missing:
        errors.append(f"{collection.source.path}: no row of {', '.join(missing)}; found {dict(counts)}")
    elif max(counts.values()) > limits.balance * min(counts.values()):
        warnings.append(f"{collection.source.path}: uneven aspects, {dict(counts)}")


def labelled_texts(attribute: Attribute, collections: list[Collection], split: str) -> LabelledTexts:
    """What the attribute's classifier reads in a split: its text file, else the replies of its dialogues."""
    mine = [c for c in collections if c.source.attribute == attribute and c.source.split == split]
    used = [c for c in mine if c.source.kind == "texts"] or mine
    pairs = [
        (item.reply or "", attribute.index(item.aspects[attribute.name])) for c in used for item in c.items
    ]
    return [text for text, _ in pairs], [label for _, label in pairs]


def check_attribute(
    attribute: Attribute, collections: list[Collection], limits: Limits, warnings: list[str]
) -> dict:
    """Reply lengths of an attribute's aspects, and how well they can be told apart by their words."""
    train, dev, test = (labelled_texts(attribute, collections, split) for split in ("train", "dev", "test"))
    lengths = {
        aspect: [len(words(t)) for t, label in zip(*train) if label == i]
        for i, aspect in enumerate(attribute.aspects)
    }
    means = {aspect: float(np.mean(counts)) for aspect, counts in lengths.items() if counts}
    ratio = max(means.values()) / min(means.values()) if len(means) > 1 else None
    report: dict[str, Any] = {
        "words": {
            aspect: [means[aspect], *np.percentile(lengths[aspect], [5, 95]).tolist()] for aspect in means
        },
        "length_ratio": ratio,
        "bag_of_words": {"dev": held_out_accuracy(train, dev), "test": held_out_accuracy(train, test)},
        "few_words": held_out_accuracy(train, dev, FEW_WORDS),
        "give_away": [
            {
                "word": w.word,
                "aspect": attribute.aspects[w.aspect],
                "precision": w.precision,
                "recall": w.recall,
            }
            for w in give_away_words(*train, limits.precision, limits.recall)
        ],
    }
    name = attribute.name
    if ratio and ratio > limits.length_ratio:
        warnings.append(
            f"{name}: replies differ in length by aspect, {ratio:.2f} times; length alone will tell them apart"
        )
    accuracy = report["bag_of_words"]["dev"]
    if accuracy is not None and accuracy < limits.audible:
        warnings.append(
            f"{name}: a bag of words tells the aspects apart in {accuracy:.2f} of dev replies only; not rich in personality"
        )
    if accuracy is not None and accuracy > limits.obvious:
        warnings.append(
            f"{name}: a bag of words gets {accuracy:.2f} of dev replies right; a few words may give the aspects away"
        )
    if report["few_words"] is not None and report["few_words"] > limits.few_words:
        warnings.append(
            f"{name}: {FEW_WORDS} words are enough to get {report['few_words']:.2f} of dev replies right"
        )
    warnings.extend(give_away_warnings(name, report["give_away"]))
    return report


def give_away_warnings(attribute: str, words: list[dict], most: int = 5) -> list[str]:
    """One line for each aspect that single words give away, with the most frequent of them.

    Args:
        words: ``[{"word", "aspect", "precision", "recall"}]``.
    """
    by_aspect: dict[str, list[dict]] = defaultdict(list)
    for word in sorted(words, key=lambda word: -word["recall"]):
        by_aspect[word["aspect"]].append(word)
    warnings = []
    for aspect, given in by_aspect.items():
        named = ", ".join(
            f"{word['word']!r} (precision {word['precision']:.2f}, in {word['recall']:.0%} of its replies)"
            for word in given[:most]
        )
        more = f" and {len(given) - most} more words" if given[most:] else ""
        warnings.append(f"{attribute}: {aspect} is given away by {named}{more}")
    return warnings


def check_duplicates(
    unit: str, collections: list[Collection], limits: Limits, errors: list[str], warnings: list[str]
) -> dict:
    """Equal and similar replies (or contexts) within a file, and across splits.

    A context may stand many times in one file, with a reply in every aspect; across splits it is a leak.

    Args:
        unit: ``reply`` or ``context``.

    Returns:
        ``{"exact": n, "near": n, "leaks": {"train-dev": {"rows", "share"}, ...}, "examples": [...]}``; `exact` and `near`
        count rows of one file that repeat an earlier row's reply (0 for contexts).
    """
    rows = [(c.source, item) for c in collections for item in c.items if getattr(item, unit)]
    texts = [getattr(item, unit) for _, item in rows]
    copies = exact_copies(texts)
    members: dict[int, list[int]] = defaultdict(list)  # first index -> it and its copies
    for index in range(len(rows)):
        members[copies.get(index, index)].append(index)
    near = similar_pairs(texts, limits.similarity)
    result: dict = {"exact": 0, "near": 0, "leaks": {}, "examples": []}

    def example(a: int, b: int, similarity: float) -> None:
        result["examples"].append(
            {
                "rows": [rows[a][1].where, rows[b][1].where],
                "similarity": similarity,
                "texts": [texts[a], texts[b]],
            }
        )

    if unit == "reply":
        for _first, group in members.items():
            for source in {rows[index][0].path: rows[index][0] for index in group}.values():
                again = [index for index in group if rows[index][0].path == source.path]
                result["exact"] += len(again) - 1
                if len(again) > 1:
                    example(again[0], again[1], 1.0)
        for a, b, similarity in near:
            if any(rows[i][0].path == rows[j][0].path for i in members[a] for j in members[b]):
                result["near"] += 1
                example(a, b, similarity)
        if result["exact"] or result["near"]:
            warnings.append(
                f"duplicates: {result['exact']} rows repeat a reply of their file, {result['near']} nearly so"
            )

    linked = [(first, first, 1.0) for first, group in members.items() if len(group) > 1] + near
    leaked: dict[tuple[str, str], set[int]] = defaultdict(set)
    first_pair: dict[tuple[str, str], str] = {}
    for a, b, similarity in linked:
        together = sorted({*members[a], *members[b]})
        for seen, held in (("train", "dev"), ("train", "test"), ("dev", "test")):
            before = [index for index in together if rows[index][0].split == seen]
            after = [index for index in together if rows[index][0].split == held]
            if before and after:
                leaked[seen, held].update(after)
                first_pair.setdefault(
                    (seen, held), f"{rows[after[0]][1].where} and {rows[before[0]][1].where}"
                )
                example(before[0], after[0], similarity)
    for (seen, held), indices in leaked.items():
        share = len(indices) / sum(source.split == held for source, _ in rows)
        result["leaks"][f"{seen}-{held}"] = {"rows": len(indices), "share": share}
        message = f"leakage: {len(indices)} {held} rows ({share:.1%}) have a {unit} that is also in {seen}, or nearly: {first_pair[seen, held]}{', ...' if len(indices) > 1 else ''}"
        (errors if seen == "train" and share > limits.leakage else warnings).append(message)
    return result


def check_topics(collections: list[Collection], warnings: list[str]) -> None:
    """A topic that stands in two splits is a warning: what was learned about it may pass for understanding."""
    topics: dict[str, set[str]] = defaultdict(set)
    for collection in collections:
        topics[collection.source.split] |= {item.topic for item in collection.items if item.topic}
    for seen, held in (("train", "dev"), ("train", "test"), ("dev", "test")):
        if shared := sorted(topics[seen] & topics[held]):
            warnings.append(
                f"leakage: {len(shared)} topics are both in {seen} and in {held}: {', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''}"
            )


def repeated_sentences(collections: list[Collection], limits: Limits, warnings: list[str]) -> list[dict]:
    """Sentences that occur more often in the training replies than the limit, the most frequent first."""
    replies = [
        item.reply
        for c in collections
        if c.source.split == "train" and c.source.kind == "dialogues"
        for item in c.items
    ]
    counts = Counter(sentence.lower() for reply in replies for sentence in SENTENCE_END.split(reply or ""))
    often = sorted(
        ((sentence, times) for sentence, times in counts.items() if times > limits.sentence),
        key=lambda pair: -pair[1],
    )
    repeated = [{"sentence": sentence, "times": times} for sentence, times in often]
    if repeated:
        warnings.append(
            f"{len(repeated)} sentences occur over {limits.sentence} times in training replies; {repeated[0]['sentence']!r} {repeated[0]['times']} times"
        )
    return repeated
