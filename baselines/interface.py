"""What a baseline is: a method that writes replies with chosen aspects."""

from typing import Protocol, runtime_checkable

from baselines.language_model import LanguageModel
from baselines.training import TrainingSetting
from generation.choosing import CandidateScores
from generation.options import DecodingArguments
from generation.requests import Request


class Baseline(Protocol):
    """A method that writes replies with chosen aspects.

    Attributes:
        name: as results name it.
        has_strength: whether `write`'s strength changes anything.

    One that learns from targets with several aspects says so by ``sees_combinations = True``; a grid's ``held_out`` then comes to
    its training setting, as one text that `dataset.unseen.held_out_names` reads.
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


@runtime_checkable
class ReadsContexts(Protocol):
    """A baseline that stands on a language model, which says what it does not read of a context (`LanguageModel.cuts`)."""

    model: LanguageModel


@runtime_checkable
class ChoosesAmongSamples(Protocol):
    """A baseline that writes several replies for each and keeps one; see `baselines.guides.Guided`."""

    def samples(
        self, requests: list[Request], how: DecodingArguments, strength: float, seed: int, **options
    ) -> list[list[str]]:
        """What `write` chooses from, so many times a reply to every request; arguments as there."""
        ...

    def candidate_scores(
        self,
        requests: list[Request],
        samples: list[list[str]],
        how: DecodingArguments,
        likelihoods: bool = True,
        known: CandidateScores | None = None,
    ) -> CandidateScores:
        """What is chosen by, for every sample, those of a request one after the other."""
        ...
