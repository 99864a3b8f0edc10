"""The options of generation: how latents are found, how they become text, and how strong control is."""

import dataclasses
import math
from dataclasses import dataclass, field

import torch

from common.errors import InputError
from common.options import at_least, meanings, within
from generation.choosing import STRONGEST, check_weights
from generation.control_weights import Weights, checked_weights, read_weights
from generation.decoding import DECODINGS
from generation.energies import ENERGIES
from generation.samplers import SAMPLERS
from model.prior import COMBINATIONS
from model.sampler import ENERGY_TIMES, GEOMETRIES, SOLVERS, SamplerSettings

STARTS = ("sample", "mean")


SAMPLER = SamplerSettings()  # the owner of the ODE's defaults


@dataclass(frozen=True)
class ControlArguments:
    """How latents are found."""

    algorithm: str = field(
        default="ode",
        metadata={"help": meanings(SAMPLERS), "choices": list(SAMPLERS)},
    )
    energy: str = field(
        default="aspects",
        metadata={"help": f"what the latents descend: {meanings(ENERGIES)}", "choices": list(ENERGIES)},
    )
    weights: Weights = field(
        default=10.0,
        metadata={
            "help": "strength: one number, attribute=number,... (others 1), or both: 100,attribute=number",
            "read": read_weights,
        },
    )
    prior_combination: str = field(
        default="average",
        metadata={"help": "how the named attributes' priors become one", "choices": COMBINATIONS},
    )
    start: str = field(
        default="mean",
        metadata={"help": "start from a sample of the prior or from its mean", "choices": STARTS},
    )
    geometry: str = field(
        default=SAMPLER.geometry,
        metadata={"help": "form of the ODE, see model/sampler.py", "choices": GEOMETRIES},
    )
    energy_time: str = field(
        default=SAMPLER.energy_time,
        metadata={"help": "energy of the whitened ODE over time", "choices": ENERGY_TIMES},
    )
    solver: str = field(
        default=SAMPLER.solver,
        metadata={
            "help": "rowwise: adaptive, every reply its own steps; rk4, midpoint, euler: fixed steps; dopri5: the reference",
            "choices": SOLVERS,
        },
    )
    tolerance: float = field(
        default=SAMPLER.tolerance, metadata={"help": "error that rowwise allows in a step"}
    )
    steps: int = field(
        default=SAMPLER.steps, metadata={"help": "steps of a fixed-step solver before any halving"}
    )
    grading: float = field(
        default=SAMPLER.grading,
        metadata={"help": "over 1: shorter steps at the start, where strong weights make the energy steep"},
    )
    max_halvings: int = field(
        default=SAMPLER.max_halvings,
        metadata={"help": "how often an example's step may be halved; 0: report only"},
    )
    langevin_steps: int = field(default=200, metadata={"help": "steps of Langevin dynamics"})
    langevin_step_size: float = field(default=0.02, metadata={"help": "its step size"})
    candidates: int = field(
        default=1,
        metadata={
            "help": "replies to write for each that is asked for; kept is the one in which the model's own heads predict the named aspects best, or that is best with --fluency and --relevance"
        },
    )
    fluency: float = field(
        default=0.0,
        metadata={
            "help": "of several candidates: weight of the reply's log-likelihood per token, beside 1 for what the heads predict"
        },
    )
    relevance: float = field(
        default=0.0,
        metadata={
            "help": "of several candidates: weight of how much likelier the context makes the reply, per token"
        },
    )
    seed: int = field(default=0, metadata={"help": "seed of all noise"})

    def __post_init__(self):
        at_least(1, self, "candidates langevin_steps")
        within("seed", self.seed, -(2**63) <= self.seed < 2**64, "that fits into 64 bits")
        check_weights(fluency=self.fluency, relevance=self.relevance)
        try:
            checked_weights(self.weights)
        except InputError as error:
            raise InputError(f"weights: {error}") from None
        within(
            "langevin_step_size", self.langevin_step_size, 0 < self.langevin_step_size < math.inf, "over 0"
        )
        try:
            _ = self.sampler
        except ValueError as error:  # the model knows no errors of ours
            raise InputError(str(error)) from None

    @property
    def sampler(self) -> SamplerSettings:
        """The ODE's settings among these."""
        names = ("geometry", "energy_time", "solver", "tolerance", "steps", "grading", "max_halvings")
        return SamplerSettings(**{name: getattr(self, name) for name in names})


def uncontrolled(control: ControlArguments) -> ControlArguments:
    """The settings of a reply whose target names nothing: a latent straight from the prior, and nothing to choose by."""
    return dataclasses.replace(control, algorithm="none", candidates=1)


@dataclass(frozen=True)
class DecodingArguments:
    """How latents become text."""

    decoding: str = field(default="greedy", metadata={"help": "greedy or top_p", "choices": DECODINGS})
    top_p: float = field(default=0.9, metadata={"help": "share of probability that top_p keeps"})
    temperature: float = field(default=1.0, metadata={"help": "temperature of top_p"})
    max_new_tokens: int = field(default=48, metadata={"help": "longest reply in tokens"})
    no_repeat_ngram_size: int = field(
        default=0, metadata={"help": "no n-gram of this size twice in a reply; 0: allowed"}
    )
    repetition_penalty: float = field(
        default=1.0, metadata={"help": "over 1: words the reply already has become less likely; 1: off"}
    )
    context_block_ngram: int = field(
        default=0,
        metadata={
            "help": "no n-gram of this size that the conversation so far has, so that replies do not repeat earlier ones; 0: allowed"
        },
    )
    guidance: float = field(
        default=1.0,
        metadata={
            "help": "over 1: exaggerate what the latent changes in the next token's logits against the prior's mean; 1: off"
        },
    )
    plausibility: float = field(
        default=0.0,
        metadata={
            "help": "with guidance: only tokens at least this share as likely as the likeliest without it; 0: all"
        },
    )
    batch_size: int = field(default=64, metadata={"help": "contexts, latents or replies at once"})
    precision: str = field(
        default="auto",
        metadata={
            "help": "of encoding and decoding: auto (bf16 on a GPU that has it), fp32, bf16",
            "choices": ("auto", "fp32", "bf16"),
        },
    )

    def __post_init__(self):
        within("top_p", self.top_p, 0 < self.top_p <= 1, "over 0 and at most 1")
        within("temperature", self.temperature, 0 < self.temperature < math.inf, "over 0")
        at_least(1, self, "max_new_tokens repetition_penalty batch_size")
        at_least(0, self, "no_repeat_ngram_size context_block_ngram guidance")
        for name in ("repetition_penalty", "guidance"):
            within(name, getattr(self, name), getattr(self, name) <= STRONGEST, f"of at most {STRONGEST:g}")
        within("plausibility", self.plausibility, 0 <= self.plausibility < 1, "of 0 or more and less than 1")


def recorded_options(kind: type, record: dict) -> dict:
    """The values of an options dataclass among those of a record; version 0.1 recorded weights as a text.

    Raises:
        InputError: naming the option, for recorded weights that are none.
    """
    values = {f.name: record[f.name] for f in dataclasses.fields(kind) if f.name in record}
    for f in dataclasses.fields(kind):
        if f.name in values and "read" in f.metadata:
            try:
                values[f.name] = f.metadata["read"](values[f.name])
            except InputError as error:
                raise InputError(f"{f.name}: {error}") from None
    return values


def in_bf16(precision: str, device: torch.device) -> bool:
    """Whether ``auto``, ``fp32`` or ``bf16`` is bf16 on that device."""
    return precision == "bf16" or (
        precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
