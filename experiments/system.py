"""What a grid's models are: a kind checks their options and loads them, a system writes the replies of their cells."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch

from common.schema import Schema
from experiments.grid import Grid
from generation.requests import Request


@dataclass(frozen=True)
class Model:
    """One thing to train: a model of the grid, one combination of its training options, one seed.

    Attributes:
        label: the model's name in the grid.
        given: training options as the grid gives them.
        options: all training options that decide what comes out.
        swept: those of the options that the grid crosses.
        name: of its folder: a hash of kind, options, seed and data.
    """

    label: str
    kind: str
    seed: int
    given: dict
    options: dict
    swept: dict
    name: str


@dataclass(frozen=True)
class Written:
    """Replies, one per request, their cost (seconds by part, most megabytes held), and the sampler's statistics."""

    requests: list[Request]
    replies: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    sampler: dict[str, float | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    memory: float | None = None


class TrainedSystem(ABC):
    """A trained model in memory.

    Attributes:
        seconds: that its training took; None where nothing was trained.
        memory: the most megabytes held while it was trained, see `common.peak_memory`; None where nothing was.
        signs: vital signs of its training on dev.
        hash: of its weights, where they lie on disk.
        notes: what else its rows say, by the names in `Kind.columns`.
    """

    def __init__(
        self,
        seconds: float | None = None,
        signs: dict[str, float] | None = None,
        hash: str | None = None,
        memory: float | None = None,
    ):
        self.seconds, self.signs, self.hash, self.memory = seconds, signs or {}, hash, memory
        self.notes: dict[str, float | str | None] = {}

    @abstractmethod
    def write(self, requests: list[Request], options: dict) -> Written:
        """The replies of one cell, by its generation options."""


class Kind(ABC):
    """How a grid's models of one kind are checked and trained.

    Attributes:
        section: of the grid, with options for all models of the kind; None: there is none.
        shares: whether models of one seed share what they train, so that one process had better have them all.
        columns: that rows of this kind have besides.
    """

    section: str | None = None
    shares: bool = False
    columns: tuple[str, ...] = ()

    def common_folder(self, model: Model) -> str | None:
        """What a model shares with others in the experiment's ``models/``, kept until the last cell; None: nothing."""
        return None

    def sees_combinations(self, options: dict) -> bool:
        """Whether such a model learns from targets with several aspects, so that held-out ones are to be kept from it.

        Of one that does, `training` receives ``held_out`` among the options: the combinations as one text with commas between
        them, which `dataset.unseen.held_out_names` reads.
        """
        return False

    @abstractmethod
    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """Everything that decides what a training comes to; raises `InputError` with the option's name in front."""

    @abstractmethod
    def generation(self, schema: Schema, defaults: dict, options: dict) -> dict:
        """A cell's options over the preset's, checked; raises `InputError` with the option's name in front."""

    @abstractmethod
    def load(
        self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict
    ) -> TrainedSystem:
        """Train the model, or take it where it lies trained, and load it; raises what the training raises.

        Args:
            shared: what models of one seed and the same options may share.
        """
