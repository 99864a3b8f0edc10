"""What a user waits for: loading a run, a reply's first words, a reply chosen from candidates, and the memory held.

python -m scripts.bench_reply release/chat --device cpu; --candidates 8 for another number than the run's own
"""

import argparse
import resource
import statistics
import sys
import time
from pathlib import Path

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

QUESTIONS = (
    "My bread did not rise this morning. What shall I do?",
    "Should I take the night train or wait until the morning?",
    "My neighbour wants his ladder back, and I can't find it.",
)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="a run's folder, or a release")
    options.add_argument("--candidates", type=int, help="replies to choose from; default: the run's own")
    options.add_argument("--device", help="cpu, cuda or mps; default: CUDA, MPS or CPU, in that order")
    return options


def main(argv: list[str] | None = None) -> int:
    """Measure and print a line; returns the exit status."""
    options = parser().parse_args(argv)
    began = time.monotonic()
    from miracle import Miracle

    model = Miracle.from_pretrained(options.run, options.device)
    loading = time.monotonic() - began
    candidates = model.control.candidates if options.candidates is None else options.candidates
    target = model.schema.combinations()[-1]
    first, whole = [], []
    for number, question in enumerate(("Hello.", *QUESTIONS)):  # the first warms up
        seen: list[float] = []
        began = time.monotonic()

        def note(_: str, seen: list[float] = seen, began: float = began) -> bool:
            seen.append(time.monotonic() - began)
            return True

        model.reply(question, target, candidates=candidates, seed=number, on_text=note)
        whole.append(time.monotonic() - began)
        first.append(seen[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    print(
        f"{options.run} on {model.generator.device}, {candidates} candidates, {len(QUESTIONS)} questions after one to warm up: "
        f"loading {loading:.1f} s, first words {statistics.median(first[1:]):.2f} s (most {max(first[1:]):.2f}), "
        f"reply {statistics.median(whole[1:]):.1f} s (most {max(whole[1:]):.1f}), peak memory {peak:.2f} GB"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
