"""Tokens as text while they come: where stop strings end it, and what of it is certain to stay."""

from transformers import PreTrainedTokenizerBase

UNFINISHED = "\ufffd"  # what a decoder makes of the first bytes of a character


def spaced(text: str) -> str:
    """A reply as the library gives it: single spaces, none at the ends."""
    return " ".join(text.split())


def stopped_at(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first of the stop strings begins; None where there is none."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(found) if found else None


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end that may still become a stop string."""
    longest = max(map(len, stops), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


class GrowingText:
    """One reply's text, as its tokens come.

    Attributes:
        sent: what has been given out; what is given out later only adds to it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...] = ()):
        self._tokenizer, self._stops, self.sent = tokenizer, stops, ""

    def read(self, tokens: list[int]) -> tuple[str, bool]:
        """The text of all tokens so far, and whether a stop string has ended it; that string is left out."""
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        place = stopped_at(text, self._stops)
        return (spaced(text), False) if place is None else (spaced(text[:place]), True)

    def more(self, tokens: list[int]) -> str:
        """What can be added to `sent` while further tokens are to come."""
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        place = stopped_at(text, self._stops)
        text = text[:place] if place is not None else text[: len(text) - held_back(text, self._stops)]
        return self._add(spaced(text.rstrip(UNFINISHED)))

    def rest(self, text: str) -> str:
        """What the whole text adds to `sent`."""
        return self._add(text)

    def _add(self, text: str) -> str:
        if not text.startswith(self.sent):
            return ""
        added = text[len(self.sent) :]
        self.sent = text
        return added
