"""The kind ``self_trained``: a CVAE that was trained on its own chosen replies, see `training.self_training`."""

import dataclasses
import json
from pathlib import Path

import torch

from common.devices import release_memory
from common.errors import InputError
from common.jsonl import read_jsonl
from common.locks import exclusive
from common.provenance import fingerprint
from common.schema import Schema
from experiments.cvae import Cvae, CvaeKind, arguments
from experiments.grid import Grid
from experiments.options import converted, parsed
from experiments.system import Model, Written
from generation import run
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Request
from training import cvae
from training.self_guards import reused, training_replies
from training.self_training import CvaeOptions, SelfTraining, SelfTrainingArguments, Writing, self_train
from training.self_written import normalised

WRITING = "writing"  # generation options of the replies to train on, over the preset's and the grid's
OURS = (
    "teacher",
    "contexts_from",
    "dev_contexts",
    "evaluators",
)  # the experiment trains, and measures in its cells
SELF_TRAINING_OPTIONS = tuple(f.name for f in dataclasses.fields(SelfTrainingArguments) if f.name not in OURS)
COLUMNS = (
    "self_accepted",
    "self_distinct2",
    "self_reused_real",
    "reused_real",
    "reused_written",
    "self_training",
)


class SelfTrainedKind(CvaeKind):
    """Training options: those of `training.cvae` and of `SelfTrainingArguments`, and ``writing``; generation options: a CVAE's.

    The teacher is a CVAE of the same options. Self-trainings of one teacher share it, and the replies of the first round where
    they only choose differently.
    """

    columns = COLUMNS

    def sees_combinations(self, options: dict) -> bool:
        """Its written replies name all attributes."""
        return True

    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """The CVAE's options, the self-training's, and how replies are written."""
        self_training, writing, given = divided(options)
        trained = super().training(grid, given, seed)
        how = dataclasses.asdict(writing_of(grid, writing, seed))
        del how["control"]["seed"]  # the model's: the seeds of a setting belong together
        apart = {name: value for name, value in trained.items() if name != "seed"}
        return trained | {
            "self_training": dataclasses.asdict(self_training),
            WRITING: how,
            "teacher": fingerprint({"options": apart, "held_out": self_training.held_out}, []),
        }

    def common_folder(self, model: Model) -> str:
        """The teacher's, with the replies of the first round."""
        return teacher_of(model)

    def load(
        self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict
    ) -> "SelfTrained":
        """Train the teacher, write, choose and train into ``models/<name>``, or find that done, and load it."""
        models, seed = grid.folder / "models", ["--seed", str(model.seed)]
        self_training, given_writing, given = divided(model.given)
        teacher = teacher_of(model)
        common, *options = parsed(cvae.OPTIONS, "cvae", given, [*grid.words(models, teacher), *seed])
        trained = CvaeOptions(*options)
        further = dataclasses.replace(trained.further, held_out=self_training.held_out)
        with exclusive(models / teacher, "the teacher", wait=True):
            cvae.train(common, trained.model, trained.loss, further, trained.training)
        release_memory()

        writing = writing_of(grid, given_writing, model.seed)
        options = dataclasses.replace(self_training, teacher=str(models / teacher), dev_contexts=0)
        settings = {"writing": dataclasses.asdict(writing), "targets": self_training.targets(schema), "contexts": self_training.contexts}  # fmt: skip
        replies = models / teacher / f"replies-{fingerprint(settings, [])}.jsonl"
        student_common = dataclasses.replace(common, run=model.name)
        record = self_train(SelfTraining(student_common, options, writing, trained, schema, device, replies))
        return SelfTrained(models / model.name, schema, device, model.seed, record)


class SelfTrained(Cvae):
    """A self-trained CVAE; its seconds are those of the teacher, of writing and of all rounds' trainings."""

    def __init__(self, folder: Path, schema: Schema, device: torch.device, seed: int, record: dict):
        super().__init__(folder / "cvae", schema, device, seed)
        self.seconds, last = record["seconds"], record["rounds"][-1]
        self.notes = {
            "self_accepted": last["accepted"] / last["written"],
            "self_distinct2": last["of_accepted"]["distinct2"],
            "self_reused_real": last["of_accepted"]["reused_real"],
            "self_training": json.dumps(record),
        }
        self.real = training_replies(schema)
        self.written_replies = replies_written(folder / "self_training", last["round"])

    def write(self, requests: list[Request], options: dict) -> Written:
        """As of any CVAE, with the shares of replies that are word for word those of its training."""
        written = super().write(requests, options)
        copies = {
            "reused_real": reused(written.replies, self.real),
            "reused_written": reused(written.replies, self.written_replies),
        }
        return dataclasses.replace(written, sampler=written.sampler | copies)


def replies_written(folder: Path, number: int) -> set[str]:
    """The normalised replies that a round accepted."""
    rows = read_jsonl(folder / f"round-{number}" / "written.jsonl")
    return {normalised(row["output"][-1]) for _, row in rows}


def divided(options: dict) -> tuple[SelfTrainingArguments, dict, dict]:
    """A model's training options as those of the self-training, of its writing, and of the CVAE.

    Raises:
        InputError: with the option's name in front.
    """
    for name in (*OURS, "further", "classify_further"):
        if name in options:
            raise InputError(f"{name}: the experiment says this of a self-training")
    writing = options.get(WRITING, {})
    if not isinstance(writing, dict):
        raise InputError(f"{WRITING}: expected generation options, found {writing!r:.80}")
    self_training = SelfTrainingArguments(
        **converted(
            {name: value for name, value in options.items() if name in SELF_TRAINING_OPTIONS},
            SelfTrainingArguments,
        )
    )
    given = {name: value for name, value in options.items() if name not in (*SELF_TRAINING_OPTIONS, WRITING)}
    return self_training, writing, given


def writing_of(grid: Grid, given: dict, seed: int) -> Writing:
    """How replies are written: the preset's generation options, the grid's and the model's over them."""
    _, _, control, decoding = parsed(run.OPTIONS, "generation", {}, grid.words(grid.folder, "check"))
    section = {n: v for n, v in grid.section("generation").items() if not n.startswith("ppl_")}
    try:
        over = converted(section | given, ControlArguments, DecodingArguments)
    except InputError as error:
        raise InputError(f"{WRITING}.{error}") from None
    values = dataclasses.asdict(control) | dataclasses.asdict(decoding) | over | {"seed": seed}
    return Writing(*arguments(values))


def teacher_of(model: Model) -> str:
    """The folder of a model's teacher."""
    return f"teacher-{model.options['teacher']}-{model.seed}"
