"""What of the teacher's dialogues is fit to learn from: whole, plain, not said before, and nothing of the held-out splits.

python -m pretraining.cleaning outs/pretraining/written --out outs/pretraining/text
"""

import argparse
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.entry import Parser, run_main
from common.jsonl import read_jsonl
from common.schema import Schema, load_schema
from dataset.dialogues import read_attribute_dialogues
from dataset.words import letter_words

Turns = tuple[str, ...]
HELD_OUT = 8  # neighbouring words that a text may not share with the dev and test splits
NOVEL = 0.4  # of a turn's neighbouring five words, that nothing before it had
DEV_EVERY = 200  # contexts of which one is held out
MARKS = re.compile(r"[*#|<>{}\[\]_=\\^~@•]|https?:|www\.|\b\d+\)|[^\x20-\x7e]")
ASSISTANT = re.compile(
    r"\b(as an ai|ai (assistant|model|language)|language model|chatbot|i (can't|cannot|can not) (assist|help with)|i'?m (sorry|afraid), but i"
    r"|how can i (help|assist) you|smollm|hugging ?face|openai|my training data|instructions?:|provide (me )?(with )?(more|additional))\b",
    re.I,
)


def whole(turn: str) -> bool:
    """Ends as a sentence ends, and begins as one begins."""
    return turn[-1:] in ".!?\"'" and (turn[:1].isupper() or turn[:1] in "\"'" or turn[:1].isdigit())


def repetitive(turn: str) -> bool:
    """Says three neighbouring words twice, or less than three fifths of its words are different ones."""
    words = letter_words(turn.lower())
    triples = list(zip(words, words[1:], words[2:]))
    return len(set(triples)) < len(triples) or len(set(words)) < 0.6 * len(words)


def echo(before: str, turn: str) -> bool:
    """Says little but what was said before it."""
    words, earlier_words = set(letter_words(turn.lower())), set(letter_words(before.lower()))
    return len(words & earlier_words) > 0.8 * len(words | earlier_words)


REASONS: dict[str, Callable[[Turns], bool]] = {
    "short": lambda turns: any(len(turn.split()) < 3 for turn in turns),
    "long": lambda turns: any(len(turn.split()) > 60 for turn in turns),
    "unfinished": lambda turns: not all(map(whole, turns)),
    "marks": lambda turns: any(map(MARKS.search, turns)),
    "assistant": lambda turns: any(map(ASSISTANT.search, turns)),
    "repetition": lambda turns: any(map(repetitive, turns)),
    "echo": lambda turns: any(map(echo, turns, turns[1:])),
}


def windows(text: str, size: int) -> list[int]:
    """A number for every `size` neighbouring words of a text; of a shorter text, one for all of it."""
    words = letter_words(text.lower())
    return [
        zlib.crc32(" ".join(words[at : at + size]).encode()) for at in range(max(1, len(words) - size + 1))
    ]


def held_out_windows(schema: Schema) -> set[int]:
    """The windows of all turns of the dev and test dialogues and of the test contexts."""
    texts: set[str] = set()
    for split in ("dev", "test"):
        for dialogues in read_attribute_dialogues(schema, split, None).values():
            for dialogue in dialogues:
                texts |= {*dialogue.context, dialogue.response}
    for _, row in read_jsonl(schema.existing(schema.test)):
        texts |= {turn for key in ("input", "output") for turn in row.get(key, [])}
    return {window for text in texts for window in windows(text, HELD_OUT)}


class Seen:
    """Which windows of five words came before, by one bit each of a table: of 2^31 windows a few in a hundred are mistaken."""

    def __init__(self, bits: int = 31):
        self.table, self.mask = np.zeros(1 << (bits - 3), dtype=np.uint8), (1 << bits) - 1

    def novelty(self, text: str) -> float:
        """The share of a text's windows that are new; they are known from now on."""
        places = np.array([window & self.mask for window in windows(text, 5)], dtype=np.int64)
        bits = np.left_shift(1, places & 7).astype(np.uint8)
        new = (self.table[places >> 3] & bits) == 0
        np.bitwise_or.at(self.table, places >> 3, bits)
        return float(new.mean())


def clean(dialogues: Iterable[Turns], held_out: set[int], counts: Counter) -> Iterator[Turns]:
    """The dialogues that are kept; `counts` says why the others are not."""
    seen, known = Seen(), set()
    for turns in dialogues:
        reason = next((name for name, test in REASONS.items() if test(turns)), None)
        if reason is None and any(not held_out.isdisjoint(windows(turn, HELD_OUT)) for turn in turns):
            reason = "held out"
        if reason is None:
            new = [turns[: n + 1] for n in range(len(turns)) if turns[: n + 1] not in known]
            known.update(new)  # a context stands before several replies
            if not new or any(seen.novelty(part[-1]) < NOVEL for part in new):
                reason = "said before"
        counts[reason or "kept"] += 1
        if reason is None:
            yield turns


def read_shards(folder: Path) -> Iterator[Turns]:
    """The dialogues of `pretraining.teacher`."""
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield tuple(json.loads(line)["turns"])


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("written", type=Path, help="folder of the teacher's shards")
    options.add_argument("--out", type=Path, required=True, help="folder of train.jsonl.gz and dev.jsonl.gz")
    return options


def main(argv: list[str] | None = None) -> int:
    """Clean; returns the exit status."""
    options = parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    counts: Counter = Counter()
    kept = clean(tqdm(read_shards(options.written), unit="dialogue", mininterval=5), held_out_windows(load_schema("schema.py")), counts)  # fmt: skip
    with (
        gzip.open(options.out / "train.jsonl.gz", "wt", compresslevel=6) as train,
        gzip.open(options.out / "dev.jsonl.gz", "wt") as dev,
    ):
        opening, number = None, 0
        for turns in kept:
            number += turns[0] != opening  # all that follows one first turn lies on one side
            opening = turns[0]
            (dev if number % DEV_EVERY == 0 else train).write(json.dumps({"turns": turns}) + "\n")
    (options.out / "cleaning.json").write_text(json.dumps(dict(counts), indent=2) + "\n")
    print(", ".join(f"{name} {count:,}" for name, count in counts.most_common()))
    return 0


if __name__ == "__main__":
    run_main(main)
