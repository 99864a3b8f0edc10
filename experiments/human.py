"""The kind ``human``: the real replies of the labelled dialogues, each on its own attribute; the table's ceiling."""

import torch

from common.errors import InputError
from common.schema import Schema
from dataset.dialogues import Dialogue
from experiments.contexts import labelled
from experiments.grid import Grid
from experiments.system import Kind, Model, TrainedSystem, Written
from generation.requests import Request


class HumanKind(Kind):
    """Takes no options."""

    def training(self, grid: Grid, options: dict, seed: int) -> dict:
        """Nothing."""
        return self._none(options)

    def generation(self, schema: Schema, defaults: dict, options: dict) -> dict:
        """Nothing."""
        return self._none(options)

    def load(self, grid: Grid, schema: Schema, device: torch.device, model: Model, shared: dict) -> "Human":
        """The replies of the split that the contexts come from."""
        return Human(labelled(grid, schema))

    def _none(self, options: dict) -> dict:
        for name in options:
            raise InputError(f"{name}: human replies have no options")
        return {}


class Human(TrainedSystem):
    """Real replies."""

    def __init__(self, dialogues: list[Dialogue]):
        super().__init__()
        self.dialogues = dialogues

    def write(self, requests: list[Request], options: dict) -> Written:
        """What people replied, to their own contexts; the experiment's requests do not count."""
        answered = [Request(d.id, d.context, d.target) for d in self.dialogues]
        return Written(answered, [dialogue.response for dialogue in self.dialogues])
