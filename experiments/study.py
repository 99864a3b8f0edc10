"""What studies of one trained run share: the run with its evaluators, contexts, files that are written beside it."""

import argparse
import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.errors import InputError
from common.files import replacing
from common.schema import load_schema
from dataset.dialogues import every_nth, read_dialogues
from miracle import Miracle, Reply
from scoring.report.svg import STYLE

DPI = 160


def add_run_options(options: argparse.ArgumentParser, contexts: int) -> None:
    """The options that such a study's command has."""
    options.add_argument("run", type=Path, help="a run's folder, or a release, with its evaluators")
    options.add_argument(
        "--contexts", type=Path, help="dialogue or context file (default: the schema's TEST)"
    )
    options.add_argument("--schema", help="schema file, for its TEST (default: the repository's)")
    options.add_argument(
        "--limit", type=int, default=contexts, help=f"different contexts, evenly spread (default: {contexts})"
    )
    options.add_argument("--seed", type=int, default=0, help="of all noise (default: 0)")
    options.add_argument("--device", help="cpu, cuda or mps (default: CUDA, MPS or CPU, in that order)")
    options.add_argument("--output-dir", type=Path, help="where results go (default: a folder in the run's)")


def scored_run(folder: Path, device: str | None) -> Miracle:
    """A run that scores its replies; raises `InputError` for one without evaluators."""
    model = Miracle.from_run(folder, device)
    if model.scorer is None:
        raise InputError(f"{folder} has no evaluators, by which its replies would be scored")
    return model


def contexts_of(options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Different contexts of the file asked for.

    Raises:
        InputError: for a file that cannot be read, and a limit under 1.
    """
    if options.limit < 1:
        raise InputError(f"--limit must be 1 or more, found {options.limit}")
    schema = load_schema(options.schema)
    if options.contexts is None and schema.test is None:
        raise InputError(f"{schema.path}: no TEST file; name one with --contexts")
    path = options.contexts or schema.existing(schema.test)
    return every_nth(list(dict.fromkeys(d.context for d in read_dialogues(path, schema))), options.limit)


def row_of(reply: Reply, **more: object) -> dict:
    """A reply as a generation, with whatever else a study notes."""
    row = {"id": "", "context": list(reply.context), "target": reply.target, "response": reply.text}
    row |= {"reference": None, "predicted": reply.predicted, "probabilities": reply.probabilities}
    return row | {"nli": reply.coherence, "seed": reply.seed} | more


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """Rows that all have the first one's keys; None becomes an empty cell."""
    with replacing(path, newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: "" if value is None else value for name, value in row.items()} for row in rows
        )


def draw_panels(
    path: Path, panels: Sequence[Callable[[Axes], None]], width: float = 4.2, height: float = 3.8
) -> None:
    """A picture of panels beside one another; each function draws on its axes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width * len(panels), height), layout="constrained")
        for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            draw(axes)
        with replacing(path, "wb") as out:
            figure.savefig(out, dpi=DPI, format=path.suffix[1:])
