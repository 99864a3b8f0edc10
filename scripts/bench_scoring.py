"""How long 100,000 scored replies take to sum up, and how much memory. ``python -m scripts.bench_scoring``"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common.jsonl import write_jsonl
from common.schema import load_schema
from scoring.results import results
from scoring.score import score_file

WORDS = 20


def synthetic(replies: int, schema, vocabulary: int = 4000, seed: int = 0) -> Iterator[dict]:
    """Scored replies of about `WORDS` words, Zipf-like, every context under all combinations, each with a reference."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(vocabulary)]
    weights = [1 / (i + 1) for i in range(vocabulary)]
    combinations = schema.combinations()

    def sentence() -> str:
        return " ".join(rng.choices(words, weights, k=rng.randint(WORDS - 8, WORDS + 8)))

    for number in range(replies):
        context, target = number // len(combinations), combinations[number % len(combinations)]
        chances = {a.name: dict(zip(a.aspects, (p := rng.random(), 1 - p))) for a in schema.attributes}
        predicted = {name: max(values, key=values.get) for name, values in chances.items()}
        scores = {
            "predicted": predicted,
            "probabilities": chances,
            "nli": rng.random(),
            "nats": 60.0,
            "tokens": 24,
        }
        yield {
            "id": str(context),
            "context": [f"question {context}"],
            "target": target,
            "response": sentence(),
            "reference": sentence(),
            **scores,
            "seed": 0,
        }


def main() -> int:
    """Make, measure, print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--replies", type=int, default=100_000)
    options.add_argument("--json", action="store_true", help="print JSON")
    given = options.parse_args()
    schema = load_schema()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.jsonl"
        write_jsonl(path, synthetic(given.replies, schema))
        started = time.monotonic()
        columns = score_file(path, schema)
        read = time.monotonic() - started
        results(columns, baseline=None, evaluators={}, warnings=[], run={})
        whole = time.monotonic() - started
    record = {
        "replies": given.replies,
        "seconds": round(whole, 1),
        "seconds_reading": round(read, 1),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(
        json.dumps(record)
        if given.json
        else f"{given.replies} replies: {whole:.0f} s ({read:.0f} s reading and measuring each), peak memory {record['peak_rss_mb']} MB"
    )
    return 0


if __name__ == "__main__":
    main()
