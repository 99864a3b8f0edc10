"""The other methods: every name of `baselines.registry.METHODS` is a kind of model."""

import dataclasses
import inspect
import time

import torch
from transformers import (
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from baselines.interface import Baseline, ChoosesAmongSamples, ReadsContexts
from baselines.training import LATER
from common.errors import InputError
from common.peak_memory import PeakMemory
from common.schema import Schema
from dataset.dialogues import read_attribute_dialogues
from dataset.tokenizers import SCRATCH_TEMPLATE
from experiments.cvae import base_name
from experiments.grid import Grid
from experiments.options import converted, parsed
from experiments.system import Kind, Model, TrainedSystem, Written
from generation.choosing import CandidateScores, best_of, check_weights
from generation.options import DecodingArguments
from generation.record import context_warnings, timed
from generation.requests import Request
from model.bases import SCRATCH, load_decoder_tokenizer
from training import cvae

INTERFACE = (
    "self",
    "requests",
    "how",
    "strength",
    "seed",
)  # of Baseline.write; what else it names are its own options
OURS = (
    "schema",
    "decoder",
    "template",
    "device",
    "seed",
    "limit",
)  # of TrainingSetting: what the experiment fills in
CHOICE = ("fluency", "relevance")  # weights of a method that chooses among samples
DECODING = tuple(field.name for field in dataclasses.fields(DecodingArguments))


@dataclasses.dataclass(frozen=True)
class Strength:
    """The dial of the methods that have one."""

    strength: float = 1.0


def methods() -> dict[str, type[Baseline]]:
    """Name -> method; empty where there is no package `baselines`."""
    try:
        from baselines.registry import METHODS
    except ModuleNotFoundError as error:
        if error.name not in ("baselines", "baselines.registry"):
            raise
        return {}
    return METHODS


class BaselineKind(Kind):
    """Training options: those of `TrainingSetting`; generation options: ``strength``, `DecodingArguments`, the method's own."""

    section = "baseline"
    shares = True

    def __init__(self, method: type[Baseline]):
        self.method = method

    def sees_combinations(self, options: dict) -> bool:
        """What the method says of itself; its `TrainingSetting` then has a field ``held_out``."""
        return getattr(self.method, "sees_combinations", False)

    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """Everything that decides what the training comes to; the CVAE's values of the preset stand where an option of the same meaning is not given."""
        from baselines.registry import TrainingSetting

        for name in options:
            if name in OURS:
                raise InputError(f"{name}: a grid says this for all models at once")
        common, preset, loss, _, training = _preset(grid)
        fields = {
            field.name: field for field in dataclasses.fields(TrainingSetting) if field.name not in OURS
        }
        values = {
            name: field.default for name, field in fields.items() if field.default is not dataclasses.MISSING
        }
        values |= {
            name: value for name, value in _like_the_cvae(preset, loss, training).items() if name in fields
        }
        values |= converted(options, TrainingSetting)
        try:
            TrainingSetting(
                schema=None,
                decoder="",
                template=preset.template,
                device=torch.device("cpu"),
                seed=seed,
                **values,
            )
        except InputError as error:
            raise InputError(str(error).removeprefix("baselines: ")) from None
        kept = {  # those of earlier experiments are found again
            name: value
            for name, value in values.items()
            if name not in LATER or value != fields[name].default
        }
        return {
            "decoder": base_name(common.decoder),
            "limit": common.limit,
            **dataclasses.asdict(preset.template),
            **kept,
        }

    def generation(self, schema: Schema, defaults: dict, options: dict) -> dict:
        """A cell's decoding, strength and options of the method's own, checked; where `write` takes any option by ``**``, unknown ones are left to the method."""
        parameters = inspect.signature(self.method.write).parameters.values()
        method_defaults = {
            p.name: p.default for p in parameters if p.name not in INTERFACE and p.kind is not p.VAR_KEYWORD
        }
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        ours = (*DECODING, *(["strength"] if self.method.has_strength else []))
        for name, value in options.items():
            if name not in ours and name not in method_defaults and not anything:
                raise InputError(
                    f"{name}: no such option of {self.method.name}; there are {', '.join(sorted({*ours, *method_defaults}))}"
                )
            if isinstance(method_defaults.get(name), (int, float, str)) and isinstance(
                value, str
            ) != isinstance(method_defaults[name], str):
                raise InputError(f"{name}: expected {type(method_defaults[name]).__name__}, found {value!r}")
            if name in CHOICE:
                check_weights(**{name: value})
        given = converted(
            {name: value for name, value in options.items() if name in ours}, DecodingArguments, Strength
        )
        decoding = {name: defaults[name] for name in DECODING}
        return (
            decoding
            | {"strength": 1.0}
            | given
            | {name: value for name, value in options.items() if name not in ours}
        )

    def load(self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict) -> "Trained":
        """Train the method in memory; nothing is kept on disk."""
        from baselines.registry import TrainingSetting

        common, preset, *_ = _preset(grid)
        names = [field.name for field in dataclasses.fields(TrainingSetting)]
        options = {name: model.options[name] for name in names if name not in OURS and name in model.options}
        decoder, template = common.decoder, preset.template
        if decoder == SCRATCH:
            if "scratch" not in shared:
                shared["scratch"] = _scratch(preset, schema, common.limit, model.seed)
            decoder, template = shared["scratch"], SCRATCH_TEMPLATE
        else:
            template = cvae.marks(load_decoder_tokenizer(decoder), template, decoder)
        limit = {"limit": common.limit} if "limit" in names else {}
        setting = TrainingSetting(
            schema=schema,
            decoder=decoder,
            template=template,
            device=device,
            seed=model.seed,
            **limit,
            **options,
        )
        started = time.monotonic()
        with PeakMemory(device) as peak:
            baseline = self.method.train(setting, shared.setdefault("methods", {}))
        return Trained(baseline, model.seed, round(time.monotonic() - started, 1), peak.megabytes, device)


def _preset(grid: Grid) -> tuple:
    """The preset's options of the CVAE, with the grid's: base, template, lengths and the training's size come from there."""
    return parsed(cvae.OPTIONS, "cvae", grid.section("cvae"), grid.words(grid.folder, "check"))


def _like_the_cvae(model: cvae.ModelArguments, loss: cvae.LossArguments, training: TrainingArguments) -> dict:
    """A baseline's training options as the CVAE's training has them."""
    return {
        "epochs": max(1, round(training.num_train_epochs)),
        "batch_size": training.per_device_train_batch_size * training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "new_learning_rate": loss.new_learning_rate,
        "warmup_steps": int(training.warmup_steps),
        "weight_decay": training.weight_decay,
        "context_weight": loss.context_weight,
        "decoder_length": model.decoder_length,
    }


def _scratch(
    options: cvae.ModelArguments, schema: Schema, limit: int | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A decoder of random weights and its tokenizer, as a CVAE without bases has them."""
    dialogues = [
        dialogue
        for of_attribute in read_attribute_dialogues(schema, "train", limit).values()
        for dialogue in of_attribute
    ]
    config, tokenizer = cvae.scratch_decoder(
        options, [text for d in dialogues for text in (*d.context, d.response)]
    )
    set_seed(seed)
    return GPT2LMHeadModel(config), tokenizer


class Trained(TrainedSystem):
    """A baseline in memory; of one that chooses among samples, the last are kept for cells that only choose differently."""

    def __init__(self, baseline: Baseline, seed: int, seconds: float, memory: float, device: torch.device):
        super().__init__(seconds, memory=memory)
        self.baseline, self.seed, self.device = baseline, seed, device
        self.written: Samples | None = None

    def write(self, requests: list[Request], options: dict) -> Written:
        """The method's replies, with a warning where its language model did not read the whole of a context."""
        how = DecodingArguments(**{name: options[name] for name in DECODING})
        reads = isinstance(self.baseline, ReadsContexts)
        cut = context_warnings(self.baseline.model.cuts(requests, how)) if reads else []
        before = self.written
        with PeakMemory(self.device) as peak:
            written = self._written(requests, options, how)
        if self.written is not None and self.written is not before:
            self.written.memory = peak.megabytes
        memory = max(peak.megabytes, self.written.memory if self.written else 0.0)
        return dataclasses.replace(written, warnings=cut, memory=memory)

    def _written(self, requests: list[Request], options: dict, how: DecodingArguments) -> Written:
        method_options = {name: value for name, value in options.items() if name not in DECODING}
        strength, seconds = method_options.pop("strength"), {}
        if not isinstance(self.baseline, ChoosesAmongSamples):
            return Written(
                requests,
                timed(
                    seconds,
                    "decoding",
                    self.baseline.write,
                    requests,
                    how,
                    strength,
                    self.seed,
                    **method_options,
                ),
                seconds,
            )
        fluency, relevance = (method_options.pop(name, 0.0) for name in CHOICE)
        written = self._samples(requests, how, strength, method_options)
        if len(written.texts) == 1:
            return Written(requests, list(written.texts[0]), dict(written.seconds))
        scores = written.candidate_scores(self.baseline, likelihoods=fluency > 0 or relevance > 0)
        return Written(requests, best_of(written.texts, scores, fluency, relevance), dict(written.seconds))

    def _samples(
        self, requests: list[Request], how: DecodingArguments, strength: float, method_options: dict
    ) -> "Samples":
        """The samples: the last ones where nothing else was asked for."""
        asked = requests, how, strength, method_options
        if self.written is None or self.written.asked != asked:
            seconds: dict[str, float] = {}
            texts = timed(
                seconds,
                "decoding",
                self.baseline.samples,
                requests,
                how,
                strength,
                self.seed,
                **method_options,
            )
            self.written = Samples(asked, texts, seconds)
        return self.written


@dataclasses.dataclass
class Samples:
    """Samples of a baseline that chooses among them, with their scores as far as a cell has asked.

    Attributes:
        asked: requests, decoding, strength and the method's own options that they were written for.
        texts: so many times a reply to every request.
        seconds: that they and their scores took, whichever cells they serve.
        memory: the most megabytes held while they were written.
    """

    asked: tuple
    texts: list[list[str]]
    seconds: dict[str, float]
    scores: CandidateScores | None = None
    memory: float = 0.0

    def candidate_scores(self, baseline: ChoosesAmongSamples, likelihoods: bool) -> CandidateScores:
        """What the guides predict, and with the likelihoods if they are wanted; none is computed twice."""
        requests, how = self.asked[:2]
        if self.scores is None or (likelihoods and self.scores.fluency is None):
            spent: dict[str, float] = {}
            self.scores = timed(
                spent,
                "choosing",
                baseline.candidate_scores,
                requests,
                self.texts,
                how,
                likelihoods,
                self.scores,
            )
            self.seconds["choosing"] = round(self.seconds.get("choosing", 0.0) + spent["choosing"], 2)
        return self.scores
