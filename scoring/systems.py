"""What lies where in a run's folder, and what a system on the command line is: such a folder, or a generations file."""

import re
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.jsonl import is_file

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class System:
    """A system's name, its replies, and where its results lie (which may not exist)."""

    name: str
    generations: Path
    results: Path


def evaluator_folders(names: list[str]) -> dict[str, str]:
    """Evaluator -> its folder inside a run, for the attributes named and for coherence."""
    return {name: f"classifier/{name}" for name in names} | {"nli": "nli"}


def checked_name(name: str) -> str:
    """A name under which a run keeps replies and results; raises `InputError` for one that is no plain file name."""
    if not FILE_NAME.fullmatch(name):
        raise InputError(
            f"--name {name!r}: expected a plain file name of letters, digits, '_', '-' and '.', without a folder"
        )
    return name


def system_at(path: Path) -> System:
    """The system of an argument.

    A run's folder stands for its generations.jsonl and is called by its own name; a file inside ``generations/`` is called
    ``<run>/<stem>``, any other by its stem.

    Raises:
        InputError: where there is nothing of the kind.
    """
    if path.is_dir():
        if not is_file(path / "generations.jsonl"):
            raise InputError(
                f"{path}: no generations.jsonl in it; expected a run's folder, outs/<run>, or a generations file"
            )
        return System(path.resolve().name, path / "generations.jsonl", path / "results.json")
    if not is_file(path):
        raise InputError(f"not found: {path}; expected a run's folder, outs/<run>, or a generations file")
    if path.resolve().parent.name == "generations":
        run = path.resolve().parent.parent
        return System(f"{run.name}/{path.stem}", path, run / "results" / f"{path.stem}.json")
    return System(path.stem, path, path.with_name(f"{path.stem}.results.json"))
