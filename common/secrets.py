"""Keys that were given to this process, and text without them."""

import re

LEAST = 8  # characters; a shorter key is a local server's word, and would garble whatever is written
LIKE_A_KEY = re.compile(r"\b(sk|pk|key|hf)[-_][A-Za-z0-9*_\-.]{6,}")
_known: set[str] = set()


def keep_secret(key: str | None) -> None:
    """From now on `redacted` takes this key out, whatever it looks like."""
    if key and len(key) >= LEAST:
        _known.add(key)


def redacted(text: str) -> str:
    """The text with every known key, and whatever looks like one, replaced by ``***``."""
    for key in sorted(_known, key=len, reverse=True):
        text = text.replace(key, "***")
    return LIKE_A_KEY.sub("***", text)
