"""Unseen combinations of aspects: which are held out of what a method may learn from, and what a held-out list may say.

The three protocols of CompMCTG ("Benchmarking and Improving Compositional Generalization of Multi-aspect Controllable Text
Generation", Zhong et al., ACL 2024), for any schema. In all of them every aspect occurs among the seen and among the unseen
combinations, so that only their composition is new. The divergence of two sets of combinations is that of DBCA (Keysers et al.,
"Measuring Compositional Generalization", ICLR 2020): 1 - sum_k p_k^a q_k^(1 - a) over the compounds k, here pairs of aspects of
different attributes, with their shares p among the seen and q among the unseen combinations, and a = 0.1; of divisions that
are alike in this, those whose single aspects differ least (a = 0.5) are taken.

A combination is written as results write it (`common.schema.target_name`): ``lyrical+optimistic+critical``.
"""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from common.errors import InputError
from common.schema import Schema, target_name
from dataset.dialogues import every_nth

ALPHA = (
    0.1  # weighs whether a compound occurs among the seen more than how often (Keysers et al., section 2.1)
)
ATOMS_ALPHA = 0.5
EXHAUSTIVE = 20_000  # so many divisions are all looked at
DRAWN = 5_000  # of more, so many drawn ones
MOST = 10  # splits of equal divergence that are kept, the authors' own number
DIGITS = 9  # to which two divergences are called equal


@dataclass(frozen=True)
class Split:
    """A division of the combinations.

    Attributes:
        protocol: a name of `PROTOCOLS`.
        held_out: the unseen combinations, in the schema's order.
        divergence: of the pairs of aspects between seen and unseen, in [0, 1].
    """

    protocol: str
    held_out: tuple[str, ...]
    divergence: float


def hold_out(schema: Schema) -> list[Split]:
    """Each combination in turn: a split with it alone unseen."""
    names = _names(schema)
    splits = []
    for name in names:
        seen = [other for other in names if other != name]
        if _covers(schema, seen):
            splits.append(Split("hold-out", (name,), divergence(seen, [name])))
    return splits


def compound_divergence(schema: Schema) -> list[Split]:
    """Attribute compound divergence (ACD): half of the combinations unseen, chosen so that the pairs of aspects that the two halves have differ most."""
    return _most_divergent(schema, "acd", len(_names(schema)) // 2)


def few_shot(schema: Schema) -> list[Split]:
    """As few combinations seen as have every aspect in them, as many as the largest attribute has aspects; of these the most divergent."""
    return _most_divergent(schema, "few-shot", max(len(attribute.aspects) for attribute in schema.attributes))


PROTOCOLS: dict[str, Callable[[Schema], list[Split]]] = {
    "hold-out": hold_out,
    "acd": compound_divergence,
    "few-shot": few_shot,
}


def splits_of(protocol: str, schema: Schema) -> list[Split]:
    """A protocol's splits, of ACD and few-shot at most `MOST` of equal divergence.

    Raises:
        InputError: for an unknown protocol, or a schema whose combinations cannot be divided so that both parts have every aspect.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"expected one of {', '.join(PROTOCOLS)}, found {protocol!r:.80}")
    if not (splits := PROTOCOLS[protocol](schema)):
        raise InputError(
            f"{protocol}: the {len(_names(schema))} combinations of {schema.aspects} have no such division"
        )
    return splits


def held_out_names(value: str | Sequence[str], schema: Schema) -> tuple[str, ...]:
    """A held-out list, checked, in the schema's order.

    Args:
        value: combinations as a list, or as one text with commas between them.

    Raises:
        InputError: for what is no combination of the schema, and where an aspect would be in no seen combination.
    """
    words = value.split(",") if isinstance(value, str) else list(value)
    asked = {_checked(word, schema) for word in words if not isinstance(word, str) or word.strip()}
    if not asked:
        raise InputError("held_out: no combination is named")
    names = _names(schema)
    seen = [name for name in names if name not in asked]
    if not _covers(schema, seen):
        present = {aspect for name in seen for aspect in name.split("+")}
        lost = [aspect for a in schema.attributes for aspect in a.aspects if aspect not in present]
        raise InputError(f"held_out: {', '.join(lost)} would be in no combination that is seen")
    return tuple(name for name in names if name in asked)


def seen_combinations(schema: Schema, held_out: Iterable[str]) -> list[dict[str, str]]:
    """The targets that a method may learn from, in index order."""
    unseen = set(held_out)
    return [target for target in schema.combinations() if target_name(target) not in unseen]


def divergence(seen: Sequence[str], unseen: Sequence[str]) -> float:
    """How far the pairs of aspects in two lists of combinations differ: 0 = the same shares, 1 = no pair in both."""
    return _divergence(seen, unseen, size=2, alpha=ALPHA)


def _divergence(seen: Sequence[str], unseen: Sequence[str], size: int, alpha: float) -> float:
    p, q = _shares(seen, size), _shares(unseen, size)
    return 1.0 - sum(p[part] ** alpha * q[part] ** (1 - alpha) for part in p.keys() & q.keys())


def _shares(names: Sequence[str], size: int) -> dict[tuple[str, ...], float]:
    counts = Counter(part for name in names for part in itertools.combinations(name.split("+"), size))
    return {part: count / counts.total() for part, count in counts.items()}


def _names(schema: Schema) -> list[str]:
    return [target_name(target) for target in schema.combinations()]


def _covers(schema: Schema, names: Iterable[str]) -> bool:
    present = {aspect for name in names for aspect in name.split("+")}
    return all(aspect in present for attribute in schema.attributes for aspect in attribute.aspects)


def _checked(word: object, schema: Schema) -> str:
    if not isinstance(word, str):
        raise InputError(f"held_out: expected combinations such as {_names(schema)[-1]}, found {word!r:.80}")
    try:
        target = schema.target([aspect.strip() for aspect in word.split("+")])
    except InputError as error:
        raise InputError(f"held_out: {error}") from None
    if missing := [name for name in schema.names if name not in target]:
        raise InputError(
            f"held_out: {word.strip()!r:.80} names no aspect of {', '.join(missing)}; expected one such as {_names(schema)[-1]}"
        )
    return target_name(target)


def _most_divergent(schema: Schema, protocol: str, n_seen: int) -> list[Split]:
    """The divisions with so many seen combinations whose divergence is greatest."""
    names, best = _names(schema), (-1.0, -1.0)
    splits: list[Split] = []
    for seen in _candidates(names, n_seen):
        unseen = tuple(name for name in names if name not in seen)
        if not unseen or not _covers(schema, seen) or not _covers(schema, unseen):
            continue
        value = divergence(seen, unseen)
        rank = round(value, DIGITS), -round(_divergence(seen, unseen, 1, ATOMS_ALPHA), DIGITS)
        if rank > best:
            best, splits = rank, []
        if rank == best:
            splits.append(Split(protocol, unseen, value))
    return every_nth(splits, MOST)


def _candidates(names: list[str], n_seen: int) -> Iterable[tuple[str, ...]]:
    if math.comb(len(names), n_seen) <= EXHAUSTIVE:
        return itertools.combinations(names, n_seen)
    rng = random.Random(0)
    drawn = {tuple(sorted(rng.sample(range(len(names)), n_seen))) for _ in range(DRAWN)}
    return (tuple(names[i] for i in indices) for indices in sorted(drawn))
