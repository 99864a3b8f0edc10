"""The kind ``guided_cvae``: a CVAE that decodes with FUDGE's guides, see `baselines.guided_latents`."""

import dataclasses
from pathlib import Path

import torch

from baselines.fudge import Fudge
from baselines.guided_latents import GuidedWriting
from common.errors import InputError
from common.schema import Schema
from experiments.baseline import BaselineKind
from experiments.cvae import CachingGenerator, Cvae, CvaeKind
from experiments.grid import Grid
from experiments.options import converted
from experiments.system import Model, Written
from generation.requests import Request


@dataclasses.dataclass(frozen=True)
class GuideArguments:
    """What the guides' log-probabilities are multiplied by (0: they are left out), and how many tokens they classify."""

    guide_strength: float = 1.0
    guide_candidates: int = 50

    def __post_init__(self):
        if not 0 <= self.guide_strength < float("inf"):
            raise InputError(f"guide_strength: expected a number of 0 or more, found {self.guide_strength}")
        if self.guide_candidates < 1:
            raise InputError(
                f"guide_candidates: expected a number of at least 1, found {self.guide_candidates}"
            )


OWN = tuple(field.name for field in dataclasses.fields(GuideArguments))


class GuidedCvaeKind(CvaeKind):
    """Training options: a CVAE's; the guides are trained as the grid's ``baseline`` section says. Generation options: a CVAE's and `GuideArguments`."""

    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """The CVAE's options and the guides'."""
        return super().training(grid, options, seed) | {"guides": self._guides(grid, seed)}

    def generation(self, schema: Schema, defaults: dict, options: dict) -> dict:
        """A CVAE's options and the guides', checked."""
        own = {name: value for name, value in options.items() if name in OWN}
        given = super().generation(schema, defaults, {k: v for k, v in options.items() if k not in OWN})
        guides = GuideArguments(**converted(own, GuideArguments))
        if guides.guide_strength and given["guidance"] != 1:
            raise InputError(f"guide_strength goes without guidance; found guidance {given['guidance']}")
        return given | dataclasses.asdict(guides)

    def load(
        self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict
    ) -> "GuidedCvae":
        """Train or find the CVAE, and train its guides in memory."""
        trained = super().load(grid, schema, device, model, shared)
        like_a_baseline = dataclasses.replace(model, options=model.options["guides"])
        guides = BaselineKind(Fudge).load(grid, schema, device, like_a_baseline, shared)
        folder = grid.folder / "models" / model.name / "cvae"
        system = GuidedCvae(folder, schema, device, model.seed, guides.baseline)
        system.seconds = round((trained.seconds or 0.0) + (guides.seconds or 0.0), 1)
        system.memory = max(trained.memory or 0.0, guides.memory or 0.0)
        return system

    @staticmethod
    def _guides(grid: Grid, seed: int) -> dict:
        return BaselineKind(Fudge).training(grid, grid.section("baseline"), seed)


class GuidedGenerator(GuidedWriting, CachingGenerator):
    """Guides, and the caches of an experiment's generator."""


class GuidedCvae(Cvae):
    """A CVAE with guides."""

    generator: GuidedGenerator
    generator_class = GuidedGenerator

    def __init__(self, folder: Path, schema: Schema, device: torch.device, seed: int, fudge: Fudge):
        super().__init__(folder, schema, device, seed)
        self.generator.guide(fudge)

    def write(self, requests: list[Request], options: dict) -> Written:
        """As of any CVAE, with the guides of these options."""
        own = GuideArguments(**{name: options[name] for name in OWN})
        known = (self.generator.strength, self.generator.guide_candidates)
        if known != (own.guide_strength, own.guide_candidates):
            self.generator.written = None  # other replies than those that are kept
        self.generator.strength, self.generator.guide_candidates = own.guide_strength, own.guide_candidates
        return super().write(requests, {name: value for name, value in options.items() if name not in OWN})
