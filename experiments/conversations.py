"""Conversations of several turns with the target held, and with one aspect changed half-way. ``python -m experiments.conversations outs/demo``

Every context's first user turn opens a conversation for every combination of aspects. The later user turns are lines that follow
on any reply (experiments/follow_ups.yaml, or --follow-ups): the same for every system that is measured, which a simulated user's
would not be, and without an aspect of their own. <run>/conversations/ gets the replies, turns.csv, conversations.json and turns.png.
"""

from common.entry import Parser, prepare_libraries, run_main

prepare_libraries()

import argparse  # noqa: E402
import random  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

from matplotlib.axes import Axes  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.errors import InputError  # noqa: E402
from common.jsonl import write_json, write_jsonl  # noqa: E402
from common.provenance import command_line, git_revision, package_versions  # noqa: E402
from common.schema import Schema  # noqa: E402
from common.yaml_files import read_yaml  # noqa: E402
from experiments.study import (  # noqa: E402
    add_run_options,
    contexts_of,
    draw_panels,
    row_of,
    scored_run,
    write_csv,
)
from miracle import Reply  # noqa: E402
from scoring.conversations import CHANGED, HELD, by_turn, csv_rows, losses  # noqa: E402
from scoring.report.plots import category  # noqa: E402

FOLLOW_UPS = Path(__file__).with_name("follow_ups.yaml")
TURNS = 8
PANELS = {
    "joint": "all aspects predicted",
    "coherence": "mean probability that it fits",
    "changed_attribute": "attribute that changes: predicted",
}

Write = Callable[[list[list[str]], list[dict[str, str]]], list[Reply]]  # contexts and targets -> replies


@dataclass
class Conversation:
    """A conversation under way.

    Attributes:
        opening: the user's first turn.
        targets: by condition, for every turn.
        changed: the attribute whose aspect changes in the condition `CHANGED`.
        follow_ups: the user's later turns.
        turns: by condition, what was said so far, user and reply in turn.
    """

    number: int
    opening: str
    targets: dict[str, list[dict[str, str]]]
    changed: str
    follow_ups: list[str]
    turns: dict[str, list[str]] = field(default_factory=dict)


def planned(
    openings: Sequence[str], schema: Schema, turns: int, lines: list[str], seed: int
) -> list[Conversation]:
    """A conversation for every opening and combination.

    The aspect changes at turn ``turns // 2 + 1``: of the attributes in turn, from one conversation to the next, to the aspect
    that follows in the schema.

    Raises:
        InputError: with fewer lines than turns.
    """
    if len(lines) < turns - 1:
        raise InputError(f"{turns} turns need {turns - 1} different follow-ups, found {len(lines)}")
    conversations = []
    for i, opening in enumerate(openings):
        for j, target in enumerate(schema.combinations()):
            name = schema.names[(i + j) % len(schema.names)]
            aspects = schema.attribute(name).aspects
            other = target | {name: aspects[(aspects.index(target[name]) + 1) % len(aspects)]}
            said = random.Random(f"{seed}|{opening}").sample(lines, turns - 1)
            half = turns // 2
            targets = {HELD: [target] * turns, CHANGED: [target] * half + [other] * (turns - half)}
            conversations.append(Conversation(len(conversations), opening, targets, name, said))
    return conversations


def hold(conversations: list[Conversation], turns: int, write: Write) -> list[dict]:
    """Write all conversations turn by turn, both conditions; until the aspect changes they are one and the same.

    Returns:
        The replies as `scoring.conversations` wants them, by turn.
    """
    rows: list[dict] = []
    half = turns // 2
    for conversation in conversations:
        conversation.turns = {condition: [conversation.opening] for condition in (HELD, CHANGED)}
    for turn in tqdm(range(turns), desc="turns", leave=False, disable=None):
        conditions = (HELD,) if turn < half else (HELD, CHANGED)
        asked = [(c, condition) for condition in conditions for c in conversations]
        contexts = [list(c.turns[condition]) for c, condition in asked]
        replies = write(contexts, [c.targets[condition][turn] for c, condition in asked])
        for (conversation, condition), reply in zip(asked, replies):
            for same in (condition,) if turn >= half else (HELD, CHANGED):
                rows.append(_row(conversation, same, turn, reply))
                said = conversation.turns[same]
                said.append(reply.text)
                if turn < turns - 1:
                    said.append(conversation.follow_ups[turn])
    return rows


def _row(conversation: Conversation, condition: str, turn: int, reply: Reply) -> dict:
    return row_of(
        reply,
        conversation=conversation.number,
        condition=condition,
        turn=turn + 1,
        opening=conversation.opening,
        changed=conversation.changed if condition == CHANGED else None,
        read_all=reply.cut is None,
        repeated=reply.text in conversation.turns[condition][1::2],
    )


def follow_ups_of(path: Path) -> list[str]:
    """The user's lines of a YAML list; raises `InputError` for anything else."""
    if not path.is_file():
        raise InputError(f"follow-ups not found: {path}")
    content = read_yaml(path)
    if not isinstance(content, list) or not all(isinstance(line, str) and line.strip() for line in content):
        raise InputError(f"{path}: expected a list of texts, found {content!r:.80}")
    return list(dict.fromkeys(" ".join(line.split()) for line in content))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_options(options, contexts=16)
    options.add_argument(
        "--turns", type=int, default=TURNS, help=f"replies in a conversation (default: {TURNS})"
    )
    options.add_argument("--weights", type=float, help="strength of all attributes (default: the run's own)")
    options.add_argument(
        "--candidates", type=int, help="replies to choose from (default: the run's own number)"
    )
    options.add_argument(
        "--context-block-ngram",
        type=int,
        help="no n-gram of this size that the conversation has already; 0: allowed (default: the run's own)",
    )
    options.add_argument(
        "--follow-ups",
        type=Path,
        default=FOLLOW_UPS,
        help="YAML list of the user's later turns (default: the repository's)",
    )
    return options


def draw(turns: list[dict], measure: str, title: str, axes: Axes) -> None:
    """One measure by turn, a line per condition, with intervals."""
    for number, condition in enumerate((HELD, CHANGED)):
        known = [one for one in turns if one["condition"] == condition and one[measure]["value"] is not None]
        if not known:
            continue
        x = [one["turn"] for one in known]
        axes.plot(
            x, [one[measure]["value"] for one in known], label=condition, markersize=4, **category(number)
        )
        if all(one[measure]["ci95"] for one in known):
            ends = zip(*(one[measure]["ci95"] for one in known))
            axes.fill_between(x, *ends, color=category(number)["color"], alpha=0.15, linewidth=0)
    axes.set(
        ylim=(0, 1.02),
        title=title,
        xlabel="turn",
        ylabel="share" if measure != "coherence" else "probability",
    )
    axes.set_xticks(sorted({one["turn"] for one in turns}))
    axes.legend(loc="lower left")


def main(argv: list[str] | None = None) -> int:
    """Hold, score, write and print; returns the exit status."""
    options = parser().parse_args(argv)
    if options.turns < 2:
        raise InputError(f"--turns must be 2 or more, found {options.turns}")
    lines = follow_ups_of(options.follow_ups)
    openings = list(dict.fromkeys(context[0] for context in contexts_of(options)))
    model = scored_run(options.run, options.device)
    conversations = planned(openings, model.schema, options.turns, lines, options.seed)
    given = {"candidates": options.candidates, "context_block_ngram": options.context_block_ngram}
    generation_options = {name: value for name, value in given.items() if value is not None}

    def write(contexts: list[list[str]], targets: list[dict[str, str]]) -> list[Reply]:
        return model.replies(contexts, targets, options.weights, options.seed, **generation_options)

    rows = hold(conversations, options.turns, write)
    turns, lost = by_turn(rows, options.seed), losses(rows, options.seed)
    folder: Path = options.output_dir or options.run / "conversations"
    write_jsonl(folder / "conversations.jsonl", rows)
    record = {
        "command": command_line(),
        "seed": options.seed,
        "openings": len(openings),
        "weights": options.weights,
    }
    record |= given | {"versions": package_versions(), "git": git_revision()}
    write_json(folder / "conversations.json", {"turns": turns, "losses": lost, "run": record})
    write_csv(folder / "turns.csv", csv_rows(turns))
    draw_panels(folder / "turns.png", [partial(draw, turns, name, title) for name, title in PANELS.items()])
    print(text_of(turns, lost), flush=True)
    print(f"-> {folder / 'conversations.json'}", flush=True)
    return 0


def text_of(turns: list[dict], lost: dict[str, dict]) -> str:
    """The numbers for people: a line per condition and turn, then what was lost."""

    def number(estimate: dict, sign: str = "") -> str:
        ends = estimate["ci95"]
        interval = f" [{ends[0]:{sign}.3f}, {ends[1]:{sign}.3f}]" if ends else ""
        return "-" if estimate["value"] is None else f"{estimate['value']:{sign}.3f}{interval}"

    shown = ("joint", "coherence", "changed_attribute", "other_attributes", "repeated", "read_all")
    lines = [
        f"{one['condition']} {one['turn']}: " + ", ".join(f"{name} {number(one[name])}" for name in shown)
        for one in turns
    ]
    lines.append(
        f"lost from the first turn to the last, target held: joint {number(lost['joint'], '+')}, coherence {number(lost['coherence'], '+')}; "
        f"by the change, at the last turn: joint {number(lost['joint_by_change'], '+')}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    run_main(main)
