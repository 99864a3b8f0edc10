"""What is asked for and what comes back: a request, its candidates, the replies that are kept."""

from dataclasses import dataclass

from common.schema import target_name
from generation.choosing import CandidateScores
from model.sampler import Sample


@dataclass(frozen=True, slots=True)
class Request:
    """One reply to write: `id` names the context's row, which several targets share.

    Attributes:
        candidate: which of several replies to the same context and target; all but the first start from a sample of the prior.
    """

    id: str
    context: tuple[str, ...]
    target: dict[str, str]
    reference: str | None = None
    candidate: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """What seeds its noise: the same context has the same wherever it stands."""
        return "\n".join(self.context), target_name(self.target) + (
            f"#{self.candidate}" if self.candidate else ""
        )


@dataclass(frozen=True)
class Replies:
    """What was written for a list of requests, in order.

    Attributes:
        texts: one per request.
        sample: the latents that they were decoded from, [B, ...].
        candidates: which of the candidates each is.
    """

    texts: list[str]
    sample: Sample
    candidates: list[int]


@dataclass(frozen=True)
class Drafts:
    """All candidates for a list of requests, a request's behind one another.

    Attributes:
        texts: one per candidate.
        sample: their latents.
        scores: candidate scores; None where there is nothing to choose, or the writing was stopped.
    """

    texts: list[str]
    sample: Sample
    scores: CandidateScores | None
