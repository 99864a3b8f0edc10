"""What another run's evaluators say of a run's replies, and where the two sets agree. ``python -m scoring.agreement outs/demo release/chat``

Evaluators that were trained beside a generator, on the same few dialogues, may share its faults; a second set from another
base does not. Nothing is written: the run's own scores stay what they are.
"""

import argparse
import copy
from pathlib import Path

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import numpy as np  # noqa: E402

from common.devices import choose_device  # noqa: E402
from common.errors import InputError  # noqa: E402
from common.schema import Schema, load_schema  # noqa: E402
from dataset.encoding import DialogueTemplate  # noqa: E402
from scoring.columns import Gatherer  # noqa: E402
from scoring.generations import read_generations  # noqa: E402
from scoring.perplexity import PerplexityModel  # noqa: E402
from scoring.results import measure  # noqa: E402
from scoring.scorer import Scorer  # noqa: E402


def agreement(first: list[dict], second: list[dict], schema: Schema) -> dict[str, float]:
    """How far two sets of scores of the same rows agree.

    Returns:
        By attribute the share of replies for which both predict the same aspect, and as ``nli`` the correlation (Pearson)
        of the coherence probabilities; NaN where one of them never varies.
    """
    found = {
        name: float(np.mean([a["predicted"][name] == b["predicted"][name] for a, b in zip(first, second)]))
        for name in schema.names
    }
    pairs = np.array([(a["nli"], b["nli"]) for a, b in zip(first, second)], dtype=float)
    constant = bool((pairs.std(0) == 0).any())
    return found | {"nli": float("nan") if constant else float(np.corrcoef(pairs.T)[0, 1])}


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path, help="the run whose replies are scored")
    options.add_argument("other", type=Path, help="the run or release whose evaluators score them")
    options.add_argument("--name", help="generations/<name>.jsonl; default: generations.jsonl")
    options.add_argument("--schema", help="schema file; default: the repository's")
    options.add_argument("--perplexity", help="un-tuned causal LM, by folder or hub name; default: none")
    options.add_argument("--device", help="cuda, mps or cpu; default: the best there is")
    return options


def main(argv: list[str] | None = None) -> int:
    """Score and print two lines; returns the exit status."""
    options = parser().parse_args(argv)
    schema, device = load_schema(options.schema or "schema.py"), choose_device(options.device)
    place = options.run / (f"generations/{options.name}.jsonl" if options.name else "generations.jsonl")
    own = list(read_generations(place, schema))
    if not own or any(row.get("nli") is None for row in own):
        raise InputError(f"{place}: expected scored replies, found {len(own)} rows, some without scores")
    rows = copy.deepcopy(own)
    Scorer(options.other, schema, device).score(rows)
    if options.perplexity:
        PerplexityModel(options.perplexity, DialogueTemplate(), device).score(rows)
    gatherer = Gatherer(schema)
    gatherer.add(rows)
    m = measure(gatherer.finish(), 0)
    low, high = m["ci95"]["accuracy_joint"]
    ppl = f", perplexity {m['ppl']:.1f}" if options.perplexity else ""
    print(
        f"{place} by {options.other}: {len(rows)} replies, joint {m['accuracy_joint']:.3f} [{low:.3f}, {high:.3f}], "
        f"accuracy {m['accuracy_mean']:.3f}, coherence {m['nli']:.3f}, distinct-2 {m['distinct2']:.3f}{ppl}"
    )
    found = agreement(own, rows, schema)
    print(
        "agreement: "
        + ", ".join(f"{name} {found[name]:.3f}" for name in schema.names)
        + f"; correlation of coherence {found['nli']:.3f}"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
