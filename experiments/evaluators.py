"""What scores an experiment's replies: evaluators trained once or taken from a run, a second set, a perplexity model."""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from common.devices import release_memory
from common.options import CommonArguments
from experiments.contexts import labelled
from experiments.grid import Grid
from experiments.options import parsed, words_of
from generation.run import language_model_of
from scoring.mauve import Mauve, mauve
from scoring.scorer import Scorer
from training import classifier, coherence

if TYPE_CHECKING:
    from experiments.plan import Plan

CHUNK = 2048
FIRST, SECOND = "evaluators", "second_evaluators"  # folders of the experiment


@dataclass(frozen=True)
class Training:
    """A training of evaluators, and the section of the grid with its options."""

    section: str
    module: ModuleType
    options: dict
    words: list[str]

    @property
    def options_of(self) -> tuple[type, ...]:
        """The dataclasses that take the options."""
        return self.module.OPTIONS

    @property
    def preset_section(self) -> str:
        """The preset's section: the second set's is that of the first."""
        return self.section.removeprefix("second_")

    def parts(self, attributes: list[str]) -> list["Training"]:
        """What can be trained at the same time: every attribute's classifier."""
        if self.module is not classifier:
            return [self]
        return [replace(self, words=[*self.words, "--attribute", name]) for name in attributes]

    def run(self) -> None:
        """Train, or find it trained."""
        self.module.train(
            *parsed(self.options_of, self.preset_section, self.options, self.words, allowed=("seed",))
        )


def folder_name(grid: Grid, name: str) -> str:
    """The folder of a set of evaluators; experiments of version 0.1 go on with theirs, ``judges`` or ``second_judges``."""
    old = name.replace("evaluators", "judges")
    return old if (grid.folder / old).is_dir() else name


def trainings(grid: Grid, common: CommonArguments) -> list[Training]:
    """What is to be trained before anything can be scored."""
    needed = []
    if grid.evaluators is None:
        words = grid.words(grid.folder, folder_name(grid, FIRST))
        needed += [
            Training(name, script, grid.section(name), words)
            for name, script in (("classifier", classifier), ("nli", coherence))
        ]
    if grid.second_encoder is not None:
        given = {
            "preset": grid.preset,
            "schema": grid.schema,
            "limit": grid.limit,
            "outs": grid.folder,
            "run": folder_name(grid, SECOND),
        }
        words = words_of({name: value for name, value in given.items() if value is not None})
        words += [
            "--encoder",
            grid.second_encoder,
            "--decoder",
            common.decoder,
        ]  # not --base, which names the first set's encoder
        options = grid.section("second_classifier") or grid.section("classifier")
        needed.append(Training("second_classifier", classifier, options, words))
    return needed


class Evaluators:
    """All evaluators of an experiment, trained and loaded.

    Args:
        trained: all of them are, by other processes: nothing is looked at that one process alone may look at.

    Attributes:
        records: name -> accuracy on dev, base, hash; those of the second set are called ``second <attribute>``.
        warnings: reasons not to trust them.
    """

    def __init__(self, plan: "Plan", device: torch.device, trained: bool = False):
        grid, schema = plan.grid, plan.schema
        for training in [] if trained else trainings(grid, plan.common):
            training.run()
            release_memory()
        self.first = Scorer(grid.evaluators or grid.folder / folder_name(grid, FIRST), schema, device)
        second = grid.second_evaluators or (grid.second_encoder and grid.folder / folder_name(grid, SECOND))
        self.second = Scorer(second, schema, device, coherence=False) if second else None
        self.language_model = language_model_of(plan.what, plan.common, device)
        self.people = [d.response for d in labelled(grid, schema) if d.response] if grid.mauve else []
        self.records, self.warnings = dict(self.first.records), self.first.warnings()
        if self.second is not None:
            self.records |= {f"second {name}": record for name, record in self.second.records.items()}
            self.warnings += [f"second {warning}" for warning in self.second.warnings()]

    def mauve(self, replies: list[str]) -> Mauve | None:
        """MAUVE of a cell's replies against people's, where the grid asks for it."""
        return (
            mauve(replies, self.people, self.language_model) if self.people and self.language_model else None
        )

    def summary(self) -> dict[str, dict]:
        """What identifies every evaluator: accuracy on dev, base, hash."""
        return {
            name: {key: record.get(key) for key in ("accuracy", "base", "hash")}
            for name, record in self.records.items()
        }

    def score(self, rows: list[dict]) -> None:
        """Write every evaluator's values into generations; the second set's are ``second_predicted``."""
        for begin in range(0, len(rows), CHUNK):
            part = rows[begin : begin + CHUNK]
            self.first.score(part)
            if self.language_model is not None:
                self.language_model.score(part)
            if self.second is not None:
                again = [{"response": row["response"]} for row in part]
                self.second.score(again)
                for row, other in zip(part, again):
                    row["second_predicted"] = other["predicted"]
