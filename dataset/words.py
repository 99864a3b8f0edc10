"""Words of a text by its script: between spaces where the script has them, Unicode's word breaks where it has none.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan are written without spaces between words. Unicode's word
breaks (UAX 29), as the package `regex` finds them, part such a text into characters, each with its marks; a dictionary
would be needed for words. Other scripts, Korean among them, have spaces. Texts in ASCII are untouched by all this.
"""

import math

import regex

UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}ー々〆]"
)
KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
HAN = regex.compile(r"\p{Han}")
LETTERS = regex.compile(r"\w+(?:'\w+)*")  # marks belong to their letters, unlike in `re`
BREAKS = regex.compile(r"(?V1w)\b")
CHARACTERS_PER_WORD = 2  # of a script without spaces, about


def unspaced(text: str) -> bool:
    """Whether a text has letters of a script that is written without spaces between words."""
    return not text.isascii() and UNSPACED.search(text) is not None


def _broken(text: str) -> list[str]:
    """A text without spaces at its word breaks; pieces without a letter or digit are left out."""
    return [piece for piece in BREAKS.split(text) if LETTERS.search(piece)]


def words(text: str) -> list[str]:
    """A text's words with their punctuation, between spaces; of what is written without them, the characters alone."""
    if not unspaced(text):
        return text.split()
    return [piece for part in text.split() for piece in (_broken(part) if unspaced(part) else [part])]


def letter_words(text: str) -> list[str]:
    """A text's words without punctuation: runs of letters, marks, digits and inner apostrophes, by script as `words`."""
    runs = LETTERS.findall(text)
    if not unspaced(text):
        return runs
    return [piece for word in runs for piece in (_broken(word) if unspaced(word) else [word])]


def pieces(text: str) -> tuple[list[str], str]:
    """A text's words, and what stands between them: nothing where most of them are characters of a script without spaces."""
    text_words = words(text)
    return text_words, "" if sum(map(unspaced, text_words)) * 2 > len(text_words) else " "


def within_words(text: str, least: int, most: int) -> bool:
    """Whether a text's length is within limits in words.

    A character of a script without spaces counts as a word against the lower limit and as half a word against the upper.
    """
    text_words = words(text)
    characters = sum(map(unspaced, text_words))
    return (
        least <= len(text_words)
        and len(text_words) - characters + math.ceil(characters / CHARACTERS_PER_WORD) <= most
    )
