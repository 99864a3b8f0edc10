"""Exact and near duplicates among texts: MinHash finds candidates, the exact Jaccard similarity decides."""

from collections.abc import Sequence

from datasketch import MinHash, MinHashLSH
from tqdm import tqdm

from dataset.words import letter_words

PERMUTATIONS = 128


def normalised(text: str) -> str:
    """The text's lower-cased words, single-spaced: what makes two texts exact duplicates."""
    return " ".join(letter_words(text.lower()))


def shingles(text: str, size: int = 3) -> frozenset[tuple[str, ...]]:
    """The set of lower-cased word n-grams; a text with fewer words is one shingle of its own."""
    words = letter_words(text.lower())
    if len(words) < size:
        return frozenset([tuple(words)])
    return frozenset(zip(*(words[start:] for start in range(size))))


def jaccard(a: frozenset, b: frozenset) -> float:
    """Size of the intersection over size of the union of two sets that are not both empty."""
    return len(a & b) / len(a | b)


def similar_pairs(
    texts: Sequence[str], threshold: float = 0.6, size: int = 3
) -> list[tuple[int, int, float]]:
    """All pairs of different texts with a Jaccard similarity of word n-grams above `threshold`.

    Candidates come from locality-sensitive hashing of `PERMUTATIONS` MinHash values (Broder, 1997), at a threshold 0.2
    below the one asked for, so that few pairs are missed; each is then compared exactly. Of texts that are equal once
    normalised, only the first takes part (see `exact_copies`).

    Args:
        threshold: in (0, 1).
        size: words per n-gram.

    Returns:
        (i, j, similarity) with i < j, sorted.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, found {threshold}")
    copies = exact_copies(texts)
    unique = [index for index in range(len(texts)) if index not in copies]
    sets = {index: shingles(texts[index], size) for index in unique}
    index_of = MinHashLSH(threshold=max(0.1, threshold - 0.2), num_perm=PERMUTATIONS)
    hashes = MinHash.generator(
        ([" ".join(s).encode() for s in sets[index]] for index in unique), num_perm=PERMUTATIONS, seed=1
    )
    found = []
    for index, signature in tqdm(
        zip(unique, hashes),
        total=len(unique),
        desc="near duplicates",
        leave=False,
        disable=len(unique) < 20000 or None,
    ):
        for other in index_of.query(signature):
            similarity = jaccard(sets[other], sets[index])
            if similarity > threshold:
                found.append((other, index, similarity))
        index_of.insert(index, signature)
    return sorted(found)


def exact_copies(texts: Sequence[str]) -> dict[int, int]:
    """Later index -> first index, for texts that are equal once normalised."""
    first: dict[str, int] = {}
    copies = {}
    for index, text in enumerate(texts):
        before = first.setdefault(normalised(text), index)
        if before != index:
            copies[index] = before
    return copies
