"""Teach a CVAE the combinations that its data never show, by its own chosen replies. ``python -m training.self_training --run chat-self``

Every training dialogue is labelled for one attribute, so that no reply was ever seen with all aspects of a target. In a round
the model writes several candidates to training contexts for every combination, the best by its own heads, fluency and relevance
is kept where it is good enough (`training.self_written`), and a CVAE is trained on these with all their labels beside the real
dialogues. The next round's writer is that CVAE. What evaluators that took no part say, how varied replies are and how many are
copies is measured for every round (`training.self_guards`).

Options without a prefix are those of the self-training and of all scripts; ``--cvae.<option>`` and ``--generation.<option>`` go to
the trainings and to the writing, whose values are the preset's otherwise. Everything goes on where it was ended. The run's
cvae/ is the last round's; self_training/ has what each round wrote, and record.json. Evaluators are trained as for any run (RUN=
chat-self bash train_classifier.sh, train_nli.sh) and replies written by gen_cvae.sh; pipeline.sh would train the CVAE anew.
"""

from common.entry import prepare_libraries, quiet_transformers, run_main

prepare_libraries()

import dataclasses  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
from transformers import TrainingArguments  # noqa: E402

from common.devices import choose_device, release_memory  # noqa: E402
from common.errors import InputError  # noqa: E402
from common.jsonl import read_json, write_json, write_jsonl  # noqa: E402
from common.locks import exclusive  # noqa: E402
from common.options import (  # noqa: E402
    CommonArguments,
    at_least,
    options_by_stage,
    parse_arguments,
    read_names,
    within,
)
from common.provenance import enough_memory, relative  # noqa: E402
from common.schema import Schema, load_schema, target_name  # noqa: E402
from generation import run  # noqa: E402
from generation.generator import ReplyGenerator  # noqa: E402
from generation.options import ControlArguments, DecodingArguments  # noqa: E402
from generation.sharing import run_parts  # noqa: E402
from scoring.stale import trained_hash  # noqa: E402
from training import cvae  # noqa: E402
from training.self_guards import (  # noqa: E402
    Evaluation,
    check_evaluators,
    dev_requests,
    evaluators_of,
    of_accepted,
    of_model,
    training_replies,
)
from training.self_written import (  # noqa: E402
    Acceptance,
    Context,
    SelfWritten,
    Target,
    by_target,
    dialogue_row,
    normalised,
    read_written,
    requests_for,
    seconds_of,
    training_contexts,
    write_replies,
)

STUDENTS = ("fresh", "continued")
SECTIONS = ("self_training", "cvae", "generation")
COMMON_OPTIONS = (
    "--preset",
    "--run",
    "--outs",
    "--schema",
    "--base",
    "--encoder",
    "--decoder",
    "--limit",
    "--overwrite",
)
SHARED = {
    **dict.fromkeys(COMMON_OPTIONS, SECTIONS),
    "--seed": SECTIONS[1:],
    **dict.fromkeys(("--report_to", "--report-to"), ("cvae",)),
}


@dataclass(frozen=True)
class SelfTrainingArguments:
    """Who writes how much, what of it is trained on, and what is watched."""

    teacher: str | None = field(
        default=None,
        metadata={
            "help": "run, release or cvae/ folder that writes the first round's replies; default: one that is trained for it with the same options"
        },
    )
    rounds: int = field(default=1, metadata={"help": "how often replies are written and trained on"})
    real_share: float = field(
        default=0.5,
        metadata={
            "help": "least share of real dialogues in what is trained on; accepted replies over that are left out, the same number of every combination"
        },
    )
    best_share: float = field(
        default=0.5,
        metadata={
            "help": "share of each combination's replies that may be accepted: those in which the writer's own heads find all named aspects most probable"
        },
    )
    diversity: float = field(
        default=1.0,
        metadata={
            "help": "what a reply's probability loses there if all of its bigrams stand in replies of the combination that were taken before: maximal marginal relevance"
        },
    )
    threshold: float = field(
        default=0.0,
        metadata={"help": "least probability of all named aspects together, by the same heads"},
    )
    least_relevance: float | None = field(
        default=None,
        metadata={
            "help": "least relevance in nats per token (how much likelier its context makes a reply); default: any"
        },
    )
    copies: int = field(
        default=1, metadata={"help": "how many accepted replies of a round may have the same words"}
    )
    combinations: list[str] = field(
        default_factory=list,
        metadata={
            "help": "what replies are written for, lyrical+optimistic+critical,...; default: every combination",
            "read": read_names,
        },
    )
    held_out: list[str] = field(
        default_factory=list,
        metadata={
            "help": "combinations that are neither written nor trained on, in the same form",
            "read": read_names,
        },
    )
    contexts: int | None = field(
        default=500,
        metadata={"help": "training contexts to write to, evenly spread"},
    )
    contexts_from: str | None = field(
        default=None,
        metadata={
            "help": "dialogue or context file to take them from, none of which may stand in a dev or test file; default: the training dialogues"
        },
    )
    student: str = field(
        default="continued",
        metadata={
            "help": "train each round's CVAE from the bases, or go on from the writer",
            "choices": STUDENTS,
        },
    )
    classify_written: bool = field(
        default=True,
        metadata={"help": "the latent heads learn from written replies too, not from real ones alone"},
    )
    dev_contexts: int = field(
        default=24,
        metadata={
            "help": "dev contexts on which every round's CVAE is measured, with one candidate; 0: none"
        },
    )
    evaluators: str | None = field(
        default=None,
        metadata={
            "help": "run or release whose evaluators score what is watched; default: the run's own, else the teacher's, else none"
        },
    )

    def __post_init__(self):
        at_least(1, self, "rounds copies")
        at_least(0, self, "dev_contexts")
        if self.contexts is not None:
            at_least(1, self, "contexts")
        within("real_share", self.real_share, 0 < self.real_share <= 1, "over 0 and at most 1")
        within("best_share", self.best_share, 0 < self.best_share <= 1, "over 0 and at most 1")
        within("diversity", self.diversity, 0 <= self.diversity < math.inf, "from 0 that is finite")
        within("threshold", self.threshold, 0 <= self.threshold <= 1, "from 0 to 1")
        if self.least_relevance is not None:
            within("least_relevance", self.least_relevance, math.isfinite(self.least_relevance), "that is finite")  # fmt: skip

    @property
    def acceptance(self) -> Acceptance:
        """Which replies are trained on."""
        least = -math.inf if self.least_relevance is None else self.least_relevance
        return Acceptance(self.best_share, self.threshold, least, self.copies, self.diversity)

    def targets(self, schema: Schema) -> list[Target]:
        """The combinations that replies are written for; raises `InputError` where none is left."""
        held_out = schema.held_out(self.held_out)
        known = {target_name(target): target for target in schema.combinations()}
        if unknown := [name for name in self.combinations if name not in known]:
            raise InputError(
                f"combinations: {unknown[0]!r:.80} is no combination of all attributes; there are {', '.join([*known][:3])}, ..."
            )
        chosen = [t for name, t in known.items() if not self.combinations or name in self.combinations]
        if not (left := [target for target in chosen if target not in held_out]):
            raise InputError("combinations: all of them are held out; at least one must be left")
        return left


@dataclass(frozen=True)
class Writing:
    """How replies are written: the preset's generation, or what is given instead."""

    control: ControlArguments
    decoding: DecodingArguments

    def of_round(self, number: int) -> ControlArguments:
        """Every round has noise of its own."""
        return dataclasses.replace(self.control, seed=self.control.seed + number)


@dataclass(frozen=True)
class CvaeOptions:
    """The options of `training.cvae`."""

    model: cvae.ModelArguments
    loss: cvae.LossArguments
    further: cvae.FurtherArguments
    training: TrainingArguments


@dataclass(frozen=True)
class SelfTraining:
    """One self-training, its schema read and its options checked against each other.

    Attributes:
        folder: of the run; ``self_training/`` and ``cvae/`` lie in it.
        first_replies: where the first round's replies are kept, where not in ``self_training/round-1``: several
            self-trainings of one teacher that differ in what they accept share them.
    """

    common: CommonArguments
    options: SelfTrainingArguments
    writing: Writing
    trained: CvaeOptions
    schema: Schema
    device: torch.device
    first_replies: Path | None = None

    def __post_init__(self):
        if self.trained.further != cvae.FurtherArguments():
            raise InputError(
                "--cvae.further, real_share, classify_further, held_out: the self-training says them, by --real_share, --classify_written and --held_out"
            )
        scored = self.writing.control.fluency > 0 or self.writing.control.relevance > 0
        if self.options.least_relevance is not None and not scored:
            raise InputError(
                "least_relevance: relevance is not computed where --generation.fluency and --generation.relevance are 0"
            )
        self.options.targets(self.schema)

    @property
    def folder(self) -> Path:
        """``outs/<run>/self_training``."""
        return self.common.run_folder / "self_training"

    def place(self, number: int) -> Path:
        """Of a round; 0 is the teacher."""
        return self.folder / f"round-{number}"

    def run(self) -> dict:
        """Train the teacher where none is named, then round after round; returns the record.

        Raises:
            InputError: for data or options that cannot be used, and where no reply is accepted.
        """
        contexts = self.contexts()
        evaluators = check_evaluators(Path(self.options.evaluators), self.schema) if self.options.evaluators else None  # fmt: skip
        writer, teacher_run = self.teacher()
        evaluators = evaluators or evaluators_of([self.common.run_folder, teacher_run], self.schema)
        evaluation = Evaluation(evaluators, self.schema, self.device)
        real = training_replies(self.schema)
        record: dict = {
            "options": self.recorded_options(),
            "evaluators": evaluation.hash,
            "contexts": len(contexts),
            "rounds": [{"round": 0, "dev": self.on_dev(0, writer, real, set(), evaluation)}],
            "seconds": self.seconds_of_teacher(writer),
        }
        for number in range(1, self.options.rounds + 1):
            one, accepted = self.written(number, writer, contexts, real, evaluation)
            record["seconds"] += one["seconds"]
            place = self.common if number == self.options.rounds else self.inner(number)
            self.train(place, self.trained.model, self.place(number) / "written.jsonl", writer, one)
            writer = place.run_folder / "cvae"
            record["seconds"] += (read_json(writer / "stage.json") or {})["seconds"]
            known = {normalised(reply.response) for reply in accepted}
            one["dev"] = self.on_dev(number, writer, real, known, evaluation)
            record["rounds"].append(one)
            write_json(self.folder / "record.json", record)
        return record

    def recorded_options(self) -> dict:
        """The options, without the machine's part of places."""
        places = ("teacher", "contexts_from", "evaluators")
        return dataclasses.asdict(self.options) | {
            name: relative(getattr(self.options, name)) for name in places
        }

    def contexts(self) -> list[Context]:
        """The training contexts that are written to."""
        file = Path(self.options.contexts_from) if self.options.contexts_from else None
        return training_contexts(self.schema, file, self.options.contexts, self.common.limit)

    def teacher(self) -> tuple[Path, Path | None]:
        """The first writer's ``cvae/`` and its run, trained where no teacher is named."""
        if self.options.teacher:
            run_folder, folder = run_parts(Path(self.options.teacher))
            return folder, run_folder
        common = self.inner(0)
        self.train(common, self.trained.model)
        return common.run_folder / "cvae", None

    def inner(self, number: int) -> CommonArguments:
        """Where a round's CVAE lies that is not the run's own."""
        return dataclasses.replace(self.common, outs=str(self.folder), run=f"round-{number}")

    def train(
        self,
        common: CommonArguments,
        model: cvae.ModelArguments,
        written: Path | None = None,
        writer: Path | None = None,
        record: dict | None = None,
    ) -> None:
        """Train a CVAE, on real dialogues alone where nothing was written."""
        options = self.options
        more = dataclasses.replace(self.trained.further, held_out=options.held_out)
        if written is not None:
            more = dataclasses.replace(
                more,
                further=str(written),
                real_share=options.real_share,
                classify_further=options.classify_written,
            )
            if options.student == "continued":
                model = dataclasses.replace(model, start_from=str(writer))
        said = {"self_training": record} if record else None
        cvae.train(common, model, self.trained.loss, more, self.trained.training, said)
        release_memory()

    def written(
        self, number: int, writer: Path, contexts: list[Context], real: set[str], evaluation: Evaluation
    ) -> tuple[dict, list[SelfWritten]]:
        """Write and choose a round's replies into ``written.jsonl``; its record, and what was accepted."""
        place, schema, options = self.place(number), self.schema, self.options
        path = self.first_replies if number == 1 and self.first_replies else place / "replies.jsonl"
        if self.common.overwrite:
            path.unlink(missing_ok=True)
        targets = options.targets(schema)
        control, how = self.writing.of_round(number), self.writing.decoding
        generator = ReplyGenerator(writer, self.device, schema, how.precision)
        memory = f"self-training: out of memory at --generation.batch_size {how.batch_size}; halve it (the replies stay the same)"
        with (
            exclusive(path, "the self-training's replies", wait=True),
            run.saying_what_is_kept(path),
            enough_memory(memory),
        ):
            parts = write_replies(
                path,
                generator,
                writer,
                requests_for(contexts, targets),
                control,
                how,
                trained_hash(read_json(writer / "stage.json") or {}),
            )
        del generator
        release_memory()
        every = read_written(parts)
        accepted = options.acceptance.accepted(every)
        if not accepted:
            best = max(one.probability for one in every)
            raise InputError(
                f"self-training: none of {len(every)} replies is accepted (threshold {options.threshold}; the most probable has {best:.3f}); lower --threshold, or raise --generation.weights or --generation.candidates"
            )
        write_jsonl(place / "written.jsonl", (dialogue_row(one, schema) for one in accepted))
        print(
            f"self-training round {number}: {len(accepted)} of {len(every)} replies accepted -> {place / 'written.jsonl'}",
            flush=True,
        )
        one = {
            "round": number,
            "written": len(every),
            "accepted": len(accepted),
            "seconds": seconds_of(parts),
            "by_target": by_target(every, accepted, targets),
            "of_accepted": of_accepted(
                accepted, real, evaluation, self.options.dev_contexts or len(contexts)
            ),
        }
        return one, accepted

    def on_dev(
        self, number: int, folder: Path, real: set[str], written: set[str], evaluation: Evaluation
    ) -> dict:
        """What is watched of a CVAE, on dev contexts with one candidate; empty where there are to be none."""
        if not self.options.dev_contexts:
            return {}
        requests = dev_requests(self.schema, self.options.dev_contexts)
        control = dataclasses.replace(self.writing.control, candidates=1)
        hash = trained_hash(read_json(folder / "stage.json") or {})
        numbers = of_model(
            self.place(number), folder, hash, requests, control, self.writing.decoding, real, written, evaluation, self.schema, self.device
        )  # fmt: skip
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items() if value is not None)
        print(f"self-training round {number} on dev, one candidate: {shown}", flush=True)
        return numbers

    def seconds_of_teacher(self, folder: Path) -> float:
        """Of the teacher's training, where its record says it."""
        return float((read_json(folder / "stage.json") or {}).get("seconds", 0.0))


OPTIONS = (CommonArguments, SelfTrainingArguments)


def configured(argv: list[str]) -> SelfTraining:
    """The self-training of a command line; raises `InputError` for a mistake in it."""
    words = options_by_stage(argv, SECTIONS, SHARED, otherwise="self_training")
    common, options = parse_arguments(OPTIONS, "self_training", words["self_training"], "")
    model, loss, further, training = parse_arguments(cvae.OPTIONS, "cvae", words["cvae"], "")[1:]
    _, what, control, decoding = parse_arguments(run.OPTIONS, "generation", words["generation"], "")
    return SelfTraining(
        common,
        options,
        Writing(control, decoding),
        CvaeOptions(model, loss, further, training),
        load_schema(common.schema),
        choose_device(what.device),
    )


def self_train(given: SelfTraining) -> dict:
    """Run it, while no other process works on the run's self-training; returns the record."""
    with exclusive(given.folder, f"self-training of {given.common.run}"):
        return given.run()


def main(argv: list[str] | None = None) -> int:
    """Parse and train; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        parse_arguments(OPTIONS, "self_training", ["--help"], __doc__)
    given = configured(argv)
    quiet_transformers()
    self_train(given)
    print(f"-> {given.common.run_folder / 'cvae'}, {given.folder / 'record.json'}", flush=True)
    return 0


if __name__ == "__main__":
    run_main(main)
