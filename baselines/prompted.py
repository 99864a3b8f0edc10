"""The prompted instruct model: its prompt says what the aspects mean, zero-shot or with examples of each; nothing is trained.

What most people would try first. Its examples show one aspect each, as the training data does.
"""

from baselines.prompting import MOST_EXAMPLES, Instructed, instructed
from baselines.training import TrainingSetting
from common.errors import InputError
from generation.options import DecodingArguments
from generation.requests import Request


class Prompted:
    """The base with a prompt that describes the target."""

    name = "prompted"
    has_strength = False

    def __init__(self, base: Instructed):
        self.base, self.model = base, base.model

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "Prompted":
        """See `baselines.registry.Baseline`; the base is loaded, and examples are drawn."""
        return cls(instructed(setting, shared))

    def write(
        self,
        requests: list[Request],
        how: DecodingArguments,
        strength: float,
        seed: int,
        *,
        examples: int = 0,
    ) -> list[str]:
        """See `baselines.registry.Baseline`; strength does not matter.

        Args:
            examples: of every named aspect that the prompt shows, from the training dialogues; 0: its description alone.
        """
        if not 0 <= examples <= MOST_EXAMPLES:
            raise InputError(f"prompted: examples must be from 0 to {MOST_EXAMPLES}, found {examples}")
        targets = {tuple(request.target.items()): request.target for request in requests}
        fronts = {key: self.base.front(target, examples) for key, target in targets.items()}
        return self.base.write(
            requests, how, seed, [fronts[tuple(request.target.items())] for request in requests]
        )
