"""Time and peak memory of the commands that read data, on made-up data of any size. ``python -m scripts.bench_large --rows 1000000``

Every command runs in a process of its own; its peak is the largest resident set that the kernel saw of it. Trainings
read and encode all rows and then take one step; `generation` writes one greedy reply of one token to every context.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError
from common.jsonl import write_jsonl
from dataset.schema_writer import write_schema

ROOT = Path(__file__).resolve().parent.parent
ASPECTS = ["plain", "lyrical"]
DEV_ROWS = 200
VOCABULARY = 20_000
TRAINING = "--max_steps 1 --per_device_train_batch_size 8 --eval_strategy no --save_strategy no --load_best_model_at_end false --report_to none"


def sentences(seed: int, least: int = 8, most: int = 16) -> Iterator[str]:
    """Sentences of so many words, drawn from `VOCABULARY` words as in Zipf's law."""
    rng = random.Random(seed)
    words = [f"w{rng.randrange(36**5):x}" for _ in range(VOCABULARY)]
    sums = list(itertools.accumulate(1 / (rank + 1) for rank in range(VOCABULARY)))
    while True:
        yield " ".join(rng.choices(words, cum_weights=sums, k=rng.randint(least, most)))


def dialogues(rows: int, seed: int) -> Iterator[dict]:
    """Dialogues of one exchange, aspects in turn."""
    made = sentences(seed)
    for number in range(rows):
        yield {"input": [next(made)], "output": [next(made)], "tag": ASPECTS[number % 2]}


def pairs(rows: int, seed: int) -> Iterator[dict]:
    """Coherence pairs, labels in turn."""
    made = sentences(seed)
    for number in range(rows):
        yield {"input": next(made), "output": next(made), "label": number % 2}


def generations(rows: int, seed: int) -> Iterator[dict]:
    """Scored replies, every context under both aspects, each with a reference."""
    made, rng, context = sentences(seed), random.Random(seed), ""
    for number in range(rows):
        context = next(made) if number % 2 == 0 else context
        p = rng.random()
        yield {
            "id": str(number // 2),
            "context": [context],
            "target": {"style": ASPECTS[number % 2]},
            "response": next(made),
            "reference": next(made),
            "predicted": {"style": ASPECTS[int(p < 0.5)]},
            "probabilities": {"style": dict(zip(ASPECTS, (p, 1 - p)))},
            "nli": rng.random(),
            "nats": 60.0,
            "tokens": 24,
            "seed": 0,
        }


def schema_of(folder: Path, rows: int, nli: bool) -> Path:
    """A schema of one attribute with that many training rows, in a folder of its own."""
    folder.mkdir()
    write_jsonl(folder / "train.jsonl", dialogues(rows, 1))
    write_jsonl(folder / "dev.jsonl", dialogues(DEV_ROWS, 2))
    files: dict[str, str | None] = {"TEST": None, "NLI": None, "DEV_NLI": None}
    if nli:
        write_jsonl(folder / "nli.jsonl", pairs(rows, 3))
        write_jsonl(folder / "dev_nli.jsonl", pairs(DEV_ROWS, 4))
        files |= {"NLI": "nli.jsonl", "DEV_NLI": "dev_nli.jsonl"}
    attribute = {
        "name": "style",
        "aspects": ASPECTS,
        "dialogues": "train.jsonl",
        "dev_dialogues": "dev.jsonl",
    }
    write_schema(folder / "schema.py", [attribute], files, "Made-up rows, to measure time and memory with.")
    return folder / "schema.py"


def checker(folder: Path, rows: int) -> list[str]:
    """The data's checks."""
    return ["scripts/check_data.py", "--schema", str(schema_of(folder / "data", rows, False))]


def cleaner(folder: Path, rows: int) -> list[str]:
    """A cleaned copy."""
    schema = schema_of(folder / "data", rows, False)
    return ["scripts/clean_data.py", "--schema", str(schema), "--output-dir", str(folder / "clean")]


def training(script: str, nli: bool = False) -> Callable[[Path, int], list[str]]:
    """A stage: its readers, its tokenisation and one step."""

    def command(folder: Path, rows: int) -> list[str]:
        schema = schema_of(folder / "data", rows, nli)
        return [script, "--schema", str(schema), "--outs", str(folder / "outs"), *TRAINING.split()]

    return command


def scorer(folder: Path, rows: int) -> list[str]:
    """Results of replies that are scored."""
    schema = schema_of(folder / "data", 2, False)
    write_jsonl(folder / "replies.jsonl", generations(rows, 5))
    return ["-m", "scoring.score", str(folder / "replies.jsonl"), "--no-evaluators", "--schema", str(schema)]


def generation(folder: Path, rows: int) -> list[str]:
    """A reply to every context in both aspects, by a CVAE that has had one training step; not scored."""
    cvae = training("train_cvae.py")(folder, DEV_ROWS)
    subprocess.run([sys.executable, *cvae], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    write_jsonl(
        folder / "contexts.jsonl",
        ({"input": [text], "output": []} for text in itertools.islice(sentences(6), rows)),
    )
    how = "--no-score --candidates 1 --decoding greedy --max_new_tokens 1 --steps 2 --name large"
    words = ["--contexts", str(folder / "contexts.jsonl"), *how.split()]
    return ["gen_cvae.py", "--schema", cvae[2], "--outs", cvae[4], *words]


COMMANDS: dict[str, Callable[[Path, int], list[str]]] = {
    "checker": checker,
    "cleaner": cleaner,
    "classifier": training("train_classifier.py"),
    "nli": training("train_nli.py"),
    "nli-file": training("train_nli.py", nli=True),
    "cvae": training("train_cvae.py"),
    "scorer": scorer,
    "generation": generation,
}


def measured(words: list[str], log: Path) -> tuple[float, float]:
    """Seconds and peak resident megabytes of a command of the repository's.

    Raises:
        InputError: where it fails, with its last line.
    """
    began = time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):  # 1: the checker has found something
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise InputError(f"{' '.join(words)}: exit status {process.returncode}: {' '.join(last)}")
    return time.monotonic() - began, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def main() -> int:
    """Make the rows, run every command, print a line for each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=100_000, help="training rows, replies or contexts")
    options.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="default: all")
    options.add_argument("--folder", help="where to work; default: a temporary folder")
    options.add_argument("--json", action="store_true", help="print a line of JSON for each")
    given = options.parse_args()
    for name in given.only:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            words = COMMANDS[name](Path(folder), given.rows)
            seconds, peak = measured(words, Path(folder) / "log")
        record = {"command": name, "rows": given.rows, "seconds": round(seconds), "peak_rss_mb": round(peak)}
        print(
            json.dumps(record)
            if given.json
            else f"{name}: {given.rows} rows, {seconds:.0f} s, peak memory {peak:.0f} MB",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    main()
