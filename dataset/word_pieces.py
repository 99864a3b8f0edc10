"""A BERT-type tokenizer's ids of words, remembered: most words of a text have been read before.

Such a tokenizer cuts at every space, and what it does with a word depends on nothing but that word. So the ids of a text
are those of its words, one behind the other, and a word that is known is looked up. Byte-level vocabularies, whose
tokens hold the space before a word, are read as a whole.
"""

from weakref import WeakKeyDictionary

from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

MOST = 1 << 16  # words that are kept for a tokenizer
LONGEST = 64  # characters of those that are kept

_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, dict[str, list[int]] | None]] = (
    WeakKeyDictionary()
)  # by tokenizer: the size of its vocabulary, and word -> ids, None where words cannot be read apart


def known_words(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]] | None:
    """The words of a tokenizer that are kept, to be added to; None where a text is more than its words."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):  # as those written in Python
        return None
    size, found = len(tokenizer), _known.get(tokenizer)
    if found is None or found[0] != size:  # tokens that were added since may stand in words
        found = _known[tokenizer] = size, {} if reads_words_apart(tokenizer) else None
    return found[1]


def reads_words_apart(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a text's ids are those of what stands between its spaces."""
    backend = tokenizer.backend_tokenizer
    return (
        isinstance(backend.model, WordPiece)
        and isinstance(backend.normalizer, BertNormalizer)
        and isinstance(backend.pre_tokenizer, BertPreTokenizer)
        and all(token.special for token in tokenizer.added_tokens_decoder.values())
    )


def ids_by_word(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], known: dict[str, list[int]]
) -> list[list[int]]:
    """Token ids of plain texts, without special tokens and with none recognised in them.

    Args:
        known: of `known_words`.
    """
    parted = [text.split(" ") for text in texts]
    found = {word: known.get(word) for words in parted for word in words}
    fresh = [word for word, ids in found.items() if ids is None]
    ids_of = {word: ids for word, ids in found.items() if ids is not None}
    if fresh:
        read = tokenizer(fresh, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids_of.update(zip(fresh, read["input_ids"]))
        if len(known) + len(fresh) > MOST:
            known.clear()
        known.update((word, ids_of[word]) for word in fresh[:MOST] if len(word) <= LONGEST)
    return [[piece for word in words for piece in ids_of[word]] for words in parted]
