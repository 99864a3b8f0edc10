"""The baselines by name, and the interface that they share."""

from typing import Protocol

from baselines.control_codes import ControlCodes
from baselines.fudge import Fudge
from baselines.language_model import Uncontrolled
from baselines.prefix_tuning import PrefixTuning
from baselines.rerank import Rerank
from baselines.steering import Steering
from baselines.training import TrainingSetting
from generation.options import DecodingArguments
from generation.requests import Request


class Baseline(Protocol):
    """A method that writes replies with chosen aspects.

    Attributes:
        name: as results name it.
        has_strength: whether `write`'s strength changes anything.
    """

    name: str
    has_strength: bool

    @classmethod
    def train(cls, setting: TrainingSetting, shared: dict) -> "Baseline":
        """Train it; `shared`, an empty dict at first, keeps what the methods of a run have in common."""
        ...

    def write(
        self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, **options
    ) -> list[str]:
        """One reply per request, in order; the same for the same seed, whatever else is written beside it.

        Args:
            strength: of control, in the method's own unit.
            options: the method's own, see `baselines/README.md`.

        Raises:
            InputError: for an option that cannot be.
        """
        ...


METHODS: dict[str, type[Baseline]] = {
    method.name: method for method in (Uncontrolled, ControlCodes, PrefixTuning, Fudge, Rerank, Steering)
}
