"""An audit of the coherence model on replies that no person would write, before any table is trusted.

A coherence classifier trained on human replies alone called ".... to to to" coherent with a probability of 0.91.
"""

import random

from dataset.dialogues import Dialogue
from dataset.nli import CORRUPTIONS
from scoring.evaluators import Evaluator

GIBBERISH = (
    ".... to to to",
    "the the the the the the",
    ", , , and of",
    "I I I I am am",
    "a it is that . . .",
    "yes yes yes yes yes yes yes",
)


def audit_coherence(
    evaluator: Evaluator, dialogues: list[Dialogue], seed: int, sample: int = 200
) -> dict[str, float]:
    """Mean coherence probability by kind of reply.

    Args:
        dialogues: dev dialogues with their true replies; a seeded sample of `sample` of them is used.

    Returns:
        ``real``: the true replies; ``random``: replies to something else; ``repeated``, ``shuffled``, ``cut``,
        ``empty``: corrupted true replies; ``echo``: the user's own words; ``gibberish``: a fixed list.
    """
    rng = random.Random(seed)
    by_words = {(dialogue.context, dialogue.response): dialogue for dialogue in dialogues}
    chosen = rng.sample(list(by_words.values()), min(sample, len(by_words)))
    contexts = [dialogue.context for dialogue in chosen]
    replies = {"real": [dialogue.response for dialogue in chosen]}
    replies["random"] = [_elsewhere(dialogue, chosen, rng) for dialogue in chosen]
    for kind, corrupt in CORRUPTIONS.items():
        replies[kind] = [corrupt(dialogue.response, rng) for dialogue in chosen]
    replies["echo"] = [dialogue.context[-1] for dialogue in chosen]
    replies["gibberish"] = [rng.choice(GIBBERISH) for _ in chosen]
    return {
        kind: round(float(evaluator.score_pairs(contexts, texts).mean()), 4)
        for kind, texts in replies.items()
    }


def _elsewhere(dialogue: Dialogue, dialogues: list[Dialogue], rng: random.Random) -> str:
    others = [other for other in dialogues if other.context != dialogue.context]
    return rng.choice(others or dialogues).response


def audit_warnings(audit: dict[str, float]) -> list[str]:
    """What an audit says against trusting the coherence score; empty where it holds."""
    found = []
    if audit["real"] - audit["random"] < 0.25:
        found.append(
            f"coherence: real replies score {audit['real']:.2f}, random ones {audit['random']:.2f}; under 0.25 apart, the score says little"
        )
    fooling = [
        f"{kind} {value:.2f}"
        for kind, value in audit.items()
        if kind not in ("real", "random") and value > audit["real"] - 0.25
    ]
    if fooling:
        found.append(
            f"coherence: the model is fooled by some degenerate replies ({', '.join(fooling)}; real ones {audit['real']:.2f})"
        )
    return found


def print_audit(audit: dict[str, float]) -> None:
    """The audit as a line, and its warnings."""
    print(
        "nli audit (mean coherence): " + "  ".join(f"{kind} {value:.2f}" for kind, value in audit.items()),
        flush=True,
    )
    for warning in audit_warnings(audit):
        print(f"  warning: {warning}", flush=True)
