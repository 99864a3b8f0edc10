"""Seeded damage: what a crash, an editor, a broken disk or somebody else's script leaves in a file."""

import copy
import json
import random

NESTED: object = []
for _ in range(100):
    NESTED = [NESTED]
VALUES = (
    None, True, False, 0, -1, 1, 3.5, 10**25, 10**400, 1e308, "", " ", "x", "0", "\u2028", "\x00", "a" * 3000, "\U0001f600", [], {}, [None],
    [[]], [""], ["a", 1], [{}], {"": 0}, {"a": {"b": [1, "c"]}}, {"name": []}, [[1, 2], [3]], NESTED,
)  # fmt: skip
SNIPPETS = (
    b"", b"\xff\xfe", b"\x80", b"\x00", b"[" * 3000, b'{"a":' * 2000, b"9" * 6000, b'"\\ud83d"', b"\\udc00", b"NaN", b"-Infinity", b"1e999",
    b"\n", b"\r", b"\xe2\x80\xa8", b"'", b'"', b",", b":", b"#", b"{", b"}", b"]", b"null", b"- ", b"&a [*a]", b"*x", b"<<: {}", b"\t", b" \n" * 500,
)  # fmt: skip


def parts_of(value: object, at: tuple = ()) -> list[tuple]:
    """The places of everything inside a JSON value, as keys from the outside in."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in pairs for place in ((*at, key), *parts_of(inner, (*at, key)))]


def damaged_value(value: object, rng: random.Random) -> object:
    """A JSON value with one to three of its parts replaced, left out or put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = parts_of(value)
        if not places:
            return rng.choice(VALUES)
        *outer, key = rng.choice(places)
        holder = value
        for step in outer:
            holder = holder[step]
        if rng.random() < 0.25:
            del holder[key]
        elif rng.random() < 0.1:
            return rng.choice(VALUES)
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes with something cut out, cut off, doubled or put in at one to three places."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((0, 1, 1, 5, 40)))
        kind = rng.randrange(5)
        if kind == 0:
            content = content[:start]
        elif kind == 1:
            content = content[:start] + content[end:]
        elif kind == 2:
            content = content[:start] + bytes(rng.randrange(256) for _ in range(3)) + content[end:]
        elif kind == 3:
            content = content[:end] + content[start:end] * 3 + content[end:]
        else:
            content = content[:start] + rng.choice(SNIPPETS) + content[end:]
    return content


def as_json(value: object) -> bytes:
    """A value as JSON; an integer of hundreds of digits and deep lists included."""
    return json.dumps(value, ensure_ascii=False).encode()
