"""The other methods: every name of `baselines.registry.METHODS` is a kind of model."""

import dataclasses
import inspect
import time
from dataclasses import dataclass, field

import torch

import train_cvae
from dataset.encoding import DialogueTemplate
from experiments.cvae import base_name
from experiments.grid import Grid
from experiments.options import converted, parsed
from experiments.system import Kind, Model, System, Written
from schema import InputError, Schema
from scripts.generation import DecodingArguments, Request, timed

INTERFACE = ("self", "requests", "how", "strength", "seed")  # of Baseline.write; what else it names are its own options
DECODING = tuple(field.name for field in dataclasses.fields(DecodingArguments))


@dataclass(frozen=True)
class BaselineArguments:
    """What a baseline's training takes; the CVAE's values of the preset stand where an option is not given."""

    epochs: float = field(metadata={"help": "times through the training dialogues"})
    batch_size: int = field(metadata={"help": "dialogues per optimizer step"})
    learning_rate: float = field(metadata={"help": "peak learning rate"})
    decoder_length: int = field(metadata={"help": "longest input in tokens"})


@dataclass(frozen=True)
class Strength:
    """The one dial that all methods have."""

    strength: float = field(default=1.0, metadata={"help": "how hard the method steers; what 1 means is the method's own"})


def methods() -> dict[str, type]:
    """Name -> method; empty where there is no package `baselines`."""
    try:
        from baselines.registry import METHODS
    except ModuleNotFoundError as error:
        if error.name not in ("baselines", "baselines.registry"):
            raise
        return {}
    return METHODS


class BaselineKind(Kind):
    """Training options: `BaselineArguments`; generation options: ``strength``, `DecodingArguments`, the method's own."""

    section = "baseline"

    def __init__(self, method: type):
        self.method = method

    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """As the base class says."""
        common, model, _, training = _preset(grid)
        size = training.per_device_train_batch_size * training.gradient_accumulation_steps
        defaults = BaselineArguments(training.num_train_epochs, size, training.learning_rate, model.decoder_length)
        found = dataclasses.asdict(dataclasses.replace(defaults, **converted(options, BaselineArguments)))
        for name, value in found.items():
            if not value > 0:
                raise InputError(f"{name}: expected a number over 0, found {value!r}")
        return {"decoder": base_name(common.decoder), **dataclasses.asdict(_template(model)), **found}

    def generation(self, schema: Schema, defaults: dict, options: dict) -> dict:
        """As the base class says; where `write` takes any option by ``**``, unknown ones are left to the method."""
        parameters = inspect.signature(self.method.write).parameters.values()
        own = {p.name: p.default for p in parameters if p.name not in INTERFACE and p.kind is not p.VAR_KEYWORD}
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        ours = (*DECODING, "strength")
        for name, value in options.items():
            if name not in ours and name not in own and not anything:
                raise InputError(f"{name}: no such option; there are {', '.join(sorted({*ours, *own}))}")
            if isinstance(own.get(name), (int, float, str)) and isinstance(value, str) != isinstance(own[name], str):
                raise InputError(f"{name}: expected {type(own[name]).__name__}, found {value!r}")
        given = converted({name: value for name, value in options.items() if name in ours}, DecodingArguments, Strength)
        decoding = {name: defaults[name] for name in DECODING}
        return decoding | {"strength": 1.0} | given | {name: value for name, value in options.items() if name not in ours}

    def load(self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict) -> "Trained":
        """As the base class says; nothing is kept on disk."""
        from baselines.registry import TrainingSetting

        common, preset, *_ = _preset(grid)
        options = {field.name: model.options[field.name] for field in dataclasses.fields(BaselineArguments)}
        setting = TrainingSetting(schema=schema, base=common.decoder, template=_template(preset), seed=model.seed, device=device, **options)
        started = time.monotonic()
        baseline = self.method.train(setting, shared)
        return Trained(baseline, model.seed, round(time.monotonic() - started, 1))


def _preset(grid: Grid) -> tuple:
    """The preset's options of the CVAE, with the grid's: base, template, lengths and the training's size come from there."""
    return parsed(train_cvae.OPTIONS, "cvae", grid.section("cvae"), grid.words(grid.folder, "check"))


def _template(model: train_cvae.ModelArguments) -> DialogueTemplate:
    return DialogueTemplate(model.user_prefix, model.assistant_prefix, model.turn_start, model.turn_end)


class Trained(System):
    """A baseline in memory."""

    def __init__(self, baseline: object, seed: int, seconds: float):
        super().__init__(seconds)
        self.baseline, self.seed = baseline, seed

    def write(self, requests: list[Request], options: dict) -> Written:
        """The method's replies."""
        how = DecodingArguments(**{name: options[name] for name in DECODING})
        own = {name: value for name, value in options.items() if name not in DECODING}
        seconds: dict[str, float] = {}
        replies = timed(seconds, "decoding", self.baseline.write, requests, how, own.pop("strength"), self.seed, **own)
        return Written(requests, replies, seconds)
