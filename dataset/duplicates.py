"""Exact and near duplicates among texts: MinHash finds candidates, the exact Jaccard similarity decides."""

import hashlib
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
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
    unique = np.array([index for index in range(len(texts)) if index not in copies], dtype=np.int64)
    if len(unique) < 2:
        return []
    hashes, starts = _shingle_hashes([texts[index] for index in unique.tolist()], size)
    similarities: dict[tuple[int, int], float] = {}
    compared: set[tuple[int, int]] = set()
    for group in _candidates(hashes, starts, max(0.1, threshold - 0.2)):
        sets = [frozenset(hashes[starts[row] : starts[row + 1]].tolist()) for row in group]
        for (i, one), (j, other) in combinations(zip(group, sets), 2):
            if (i, j) in compared:
                continue
            compared.add((i, j))
            if (similarity := jaccard(one, other)) > threshold:
                similarities[i, j] = similarity
    return sorted((int(unique[i]), int(unique[j]), value) for (i, j), value in similarities.items())


def _shingle_hashes(texts: list[str], size: int) -> tuple[np.ndarray, np.ndarray]:
    """The first 64 bits of the SHA-1 of every text's shingles, behind one another, and where each text's begin and end."""
    starts = np.zeros(len(texts) + 1, dtype=np.int64)

    def hashes() -> Iterator[int]:
        bar = tqdm(texts, desc="near duplicates", leave=False, disable=len(texts) < 20000 or None)
        for row, text in enumerate(bar):
            text_shingles = shingles(text, size)
            starts[row + 1] = len(text_shingles)
            for words in text_shingles:
                yield int.from_bytes(hashlib.sha1(" ".join(words).encode()).digest()[:8], "little")

    flat = np.fromiter(hashes(), dtype=np.uint64)
    return flat, starts.cumsum()


def _candidates(hashes: np.ndarray, starts: np.ndarray, threshold: float) -> Iterator[list[int]]:
    """Rows whose MinHash values agree in a whole band, in rising order; one band after the other, so that few are held."""
    bands, (factors, terms) = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS), _permutations()
    mixed = _mixed(hashes.astype(np.uint32))
    for band in range(bands.b):
        key = np.zeros(len(starts) - 1, dtype=np.uint64)
        for number in range(band * bands.r, (band + 1) * bands.r):
            least = np.minimum.reduceat(mixed * factors[number] + terms[number], starts[:-1])
            key = (key ^ least) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        order = np.argsort(key, kind="stable")
        borders = np.flatnonzero(np.diff(key[order])) + 1
        sizes = np.diff(borders, prepend=0, append=len(order))
        for begin, length in zip(
            np.concatenate([[0], borders])[sizes > 1].tolist(), sizes[sizes > 1].tolist()
        ):
            yield order[begin : begin + length].tolist()


def _permutations() -> tuple[np.ndarray, np.ndarray]:
    """Factors and terms of the permutations h -> a h + b modulo 2**32."""
    return MinHash(PERMUTATIONS, seed=1).permutations


def _mixed(values: np.ndarray) -> np.ndarray:
    """32-bit hashes through the finaliser of MurmurHash3, as `datasketch` mixes them before it permutes."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))


def exact_copies(texts: Sequence[str]) -> dict[int, int]:
    """Later index -> first index, for texts that are equal once normalised."""
    first: dict[bytes, int] = {}
    copies = {}
    for index, text in enumerate(texts):
        key = hashlib.blake2b(normalised(text).encode(), digest_size=16).digest()  # smaller than the text
        before = first.setdefault(key, index)
        if before != index:
            copies[index] = before
    return copies
