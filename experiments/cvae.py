"""The kind ``cvae``: our model, trained by `training.cvae` and loaded once for all its cells."""

import dataclasses
from pathlib import Path

import torch

from common.content import content_of
from common.errors import InputError
from common.jsonl import read_json, write_json
from common.peak_memory import PeakMemory
from common.provenance import relative
from common.schema import Schema
from experiments.grid import Grid
from experiments.options import converted, parsed
from experiments.system import Kind, Model, TrainedSystem, Written
from generation.control_weights import by_attribute
from generation.generator import ReplyGenerator
from generation.options import ControlArguments, DecodingArguments
from generation.record import context_warnings, sampling_record, sampling_warnings, timed
from generation.requests import Drafts, Request
from model.gaussian import Gaussian
from model.sampler import Sample
from training import cvae
from training.inputs import compared_settings

VITAL_SIGNS = (
    "reconstruction",
    "kl_unclamped",
    "head_accuracy",
    "prior_head_accuracy",
    "latent_scale",
)  # on dev, by CvaeTrainer
STRIDE = 1_000_000  # between the seeds of the latents to choose from, so that the grid's own seeds stay apart
MEMORY = "memory.json"  # beside a trained model: what its training held
TOLERANCE = 0.01  # relative change under halving of the sampler's step that is worth a warning


@dataclasses.dataclass(frozen=True)
class Choice:
    """Best-of-n reranking by the energy: of so many latents per reply, each with noise of its own, the one of least energy is decoded."""

    best_of: int = 1


class CvaeKind(Kind):
    """Training options: those of `training.cvae`; generation options: `ControlArguments`, `DecodingArguments` and `Choice`."""

    section = "cvae"

    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """Bases, architecture, loss and training options, as `training.cvae` resolves them."""
        common, model, loss, more, training = parsed(
            cvae.OPTIONS, "cvae", options, [*grid.words(grid.folder, "check"), "--seed", str(seed)]
        )
        bases = {
            "version": cvae.VERSION,
            "encoder": base_name(common.encoder),
            "decoder": base_name(common.decoder),
            "limit": common.limit,
        }
        return bases | model.settings | loss.settings | more.settings | compared_settings(training)

    def generation(self, schema: Schema, defaults: dict, options: dict) -> dict:
        """A cell's options of `ControlArguments`, `DecodingArguments` and `Choice` over the preset's, checked against each other."""
        if (
            options.get("best_of", 1) != 1 or options.get("algorithm") == "none"
        ):  # neither is to choose by the heads as well, unless it says so
            options = {"candidates": 1} | options
        values = defaults | {"best_of": 1} | converted(options, ControlArguments, DecodingArguments, Choice)
        control, _ = arguments(values)
        if values["best_of"] < 1:
            raise InputError(f"best_of: expected a number of latents, found {values['best_of']}")
        if values["best_of"] > 1 and control.candidates > 1:
            raise InputError(
                "best_of: chooses latents by their energy, candidates chooses replies by the heads; one or the other"
            )
        if values["best_of"] > 1 and control.start == "mean" and control.algorithm != "langevin":
            raise InputError(
                f"best_of: {values['best_of']} latents that start from the prior's mean are the same; start: sample"
            )
        try:
            by_attribute(control.weights, schema.names)
        except InputError as error:
            raise InputError(f"weights: {error}") from None
        try:
            control.sampler  # noqa: B018  (checks itself)
        except ValueError as error:
            raise InputError(str(error)) from None
        return values

    def load(self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict) -> "Cvae":
        """Train the model into ``models/<name>/cvae``, or find it trained, and load it."""
        models = grid.folder / "models"
        there = (models / model.name / "cvae" / "stage.json").is_file()
        with PeakMemory(device) as peak:
            cvae.train(
                *parsed(
                    cvae.OPTIONS,
                    "cvae",
                    model.given,
                    [*grid.words(models, model.name), "--seed", str(model.seed)],
                )
            )
        if not there:  # an interrupted training that went on counts from there, which holds as much
            write_json(models / model.name / MEMORY, {"training_megabytes": peak.megabytes})
        return Cvae(models / model.name / "cvae", schema, device, model.seed)


class CachingGenerator(ReplyGenerator):
    """Encodes the contexts once for all cells, and writes once for cells that only choose differently among the same candidates."""

    def __init__(self, *args):
        super().__init__(*args)
        self.known: tuple[list, Gaussian] | None = None
        self.written: tuple[tuple, Drafts, dict[str, float]] | None = None
        self.memory = 0.0  # megabytes, the most held while `written` was

    def drafts(self, requests, control, how, seconds, on_text=None, own=None) -> Drafts:
        """As `ReplyGenerator.drafts`, with the seconds of the first cell that had these candidates, all scores included."""
        alike = dataclasses.replace(control, fluency=1.0, relevance=1.0)  # so that all scores are found
        if self.written is None or self.written[0] != (requests, alike, how, own):
            spent: dict[str, float] = {}
            drafts = super().drafts(requests, alike, how, spent, on_text, own)
            self.written = (requests, alike, how, own), drafts, spent
        seconds |= self.written[2]
        return self.written[1]

    def priors(self, contexts: list[tuple[str, ...]], batch_size: int) -> Gaussian:
        """As `ReplyGenerator.priors`; the last contexts' priors are kept."""
        if self.known is None or self.known[0] != contexts:
            self.known = contexts, super().priors(contexts, batch_size)
        return self.known[1]


class Cvae(TrainedSystem):
    """A trained CVAE."""

    generator_class = CachingGenerator

    def __init__(self, folder: Path, schema: Schema, device: torch.device, seed: int):
        record = read_json(folder / "stage.json") or {}
        metrics = record | (record.get("metrics") or {})
        if missing := [name for name in ("seconds", "hash", *VITAL_SIGNS) if name not in metrics]:
            raise InputError(
                f"{folder / 'stage.json'}: expected {', '.join(missing)} of the training, found none; delete {folder} to train it again"
            )
        memory = (read_json(folder.parent / MEMORY) or {}).get("training_megabytes")
        signs = {sign: metrics[sign] for sign in VITAL_SIGNS}
        super().__init__(metrics["seconds"], signs, metrics["hash"], memory)
        self.seed, self.generator = seed, self.generator_class(folder, device, schema)

    def write(self, requests: list[Request], options: dict) -> Written:
        """Latents, then text; raises `InputError` where the sampler's latents are not finite."""
        before = self.generator.written
        with PeakMemory(self.generator.device) as peak:
            written = self._written(requests, options)
        if self.generator.written is not before:
            self.generator.memory = peak.megabytes
        shared = self.generator.memory if options["best_of"] == 1 else 0.0
        return dataclasses.replace(written, memory=max(peak.megabytes, shared))

    def _written(self, requests: list[Request], options: dict) -> Written:
        control, decoding = arguments(options | {"seed": self.seed})
        seconds: dict[str, float] = {}
        if options["best_of"] > 1:
            sample = timed(
                seconds, "latents", self.best, requests, control, decoding.batch_size, options["best_of"]
            )
            replies = timed(
                seconds, "decoding", self.generator.decode, requests, sample, decoding, control.seed
            )
        else:
            written = self.generator.write(requests, control, decoding, seconds)
            sample, replies = written.sample, written.texts
        cut = context_warnings(self.generator.cuts([request.context for request in requests], decoding))
        return Written(
            requests, replies, seconds, sampling_record(sample), sampling_warnings(sample, TOLERANCE) + cut
        )

    def best(self, requests: list[Request], control: ControlArguments, batch_size: int, n: int) -> Sample:
        """Of `n` latents per request the one of least energy; the first is the one that there is with `n` = 1."""
        best = self.generator.latents(requests, control, batch_size)
        for number in range(1, n):
            other = self.generator.latents(
                requests, dataclasses.replace(control, seed=control.seed + number * STRIDE), batch_size
            )
            less = other.energy < best.energy
            pairs = (
                (getattr(other, field.name), getattr(best, field.name))
                for field in dataclasses.fields(Sample)
            )
            best = Sample(
                *(
                    None if a is None else torch.where(less.view(-1, *[1] * (a.dim() - 1)), a, b)
                    for a, b in pairs
                )
            )
        return dataclasses.replace(best, nfe=best.nfe * n)


def arguments(options: dict) -> tuple[ControlArguments, DecodingArguments]:
    """A cell's options as the dataclasses of `generation.options`."""
    kinds = (ControlArguments, DecodingArguments)
    return tuple(
        kind(
            **{field.name: options[field.name] for field in dataclasses.fields(kind) if field.name in options}
        )
        for kind in kinds
    )


def base_name(base: str) -> str:
    """A base as it is recorded: a folder without the machine's part and with the hash of its content, a hub name as it is."""
    return f"{relative(base)}@{content_of(base)}" if Path(base).is_dir() else base
