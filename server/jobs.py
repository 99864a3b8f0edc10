"""What the scheduler works on: a request for one or more replies, and each of these with its candidates."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from dataset.encoding import Cut
from generation.options import ControlArguments, DecodingArguments
from generation.requests import Request
from miracle import Reply
from model.sampler import Sample
from server.slots import DecodingRow
from server.text import GrowingText


@dataclass(frozen=True)
class Added:
    """An event: text that the reply `index` goes on with."""

    index: int
    text: str


@dataclass(frozen=True)
class Finished:
    """An event: the reply `index` is written.

    Attributes:
        added: what its text has beyond what was sent.
        reason: "stop" or "length".
        tokens: of the reply that was kept; written: of all its candidates; prompt: of the prompt as the decoder read it.
    """

    index: int
    added: str
    reply: Reply
    reason: str
    tokens: int
    written: int
    prompt: int


@dataclass(frozen=True)
class Failed:
    """An event, the last one: there will be no reply."""

    error: Exception


Event = Added | Finished | Failed
Listener = Callable[[Event], None]


@dataclass(frozen=True)
class KnownLatents:
    """What answers say of latents, fetched from the device at once.

    Attributes:
        z: [B, D].
        energy_start, energy: before and after, [B].
    """

    z: np.ndarray
    energy_start: list[float]
    energy: list[float]

    @classmethod
    def of(cls, sample: Sample) -> "KnownLatents":
        """Those of a sample."""
        energies = torch.stack([sample.energy_start, sample.energy]).tolist()
        return cls(sample.z.cpu().numpy(), *energies)


@dataclass(eq=False)
class PendingReply:
    """One reply of a job, with its candidates.

    Attributes:
        control: its settings, its own seed among them.
        requests, rows, texts: one per candidate, once it is under way.
        found: latents of these and other requests, theirs from `first` on; known: the same for the answer.
        kept: which candidate was chosen.
        answered: the reply has been sent.
    """

    index: int
    control: ControlArguments
    requests: list[Request]
    rows: list[DecodingRow] = field(default_factory=list)
    growing: list[GrowingText] = field(default_factory=list)
    found: Sample | None = None
    known: KnownLatents | None = None
    first: int = 0
    texts: list[str] = field(default_factory=list)
    kept: int = 0
    answered: bool = False

    @property
    def sample(self) -> Sample:
        """The candidates' latents."""
        assert self.found is not None, "latents come first"
        return self.found.part(self.first, self.first + len(self.requests))

    @property
    def ended(self) -> bool:
        """Whether every candidate has."""
        return bool(self.rows) and all(row.ended for row in self.rows)


@dataclass(eq=False)
class Job:
    """One request to the service.

    Attributes:
        client: whom it is from, for fairness.
        weights: attribute -> strength, of the attributes that the target names.
        writings: one per reply that is asked for.
        stream: send text while it is written, where there is nothing to choose.
        scored: have the evaluators read the replies.
        listener: called with every event, by the scheduler's thread.
        cancelled: set by anyone; the rows leave before the next step.
        dropped: oldest turns that were left out before the model saw the conversation.
        prompt: its tokens, once it is under way; cut: what of the conversation they leave out.
    """

    client: str
    turns: tuple[str, ...]
    target: dict[str, str]
    weights: dict[str, float]
    decoding: DecodingArguments
    writings: list[PendingReply]
    listener: Listener
    stops: tuple[str, ...] = ()
    stream: bool = False
    scored: bool = True
    dropped: int = 0
    prompt: list[int] = field(default_factory=list)
    cut: Cut | None = None
    cancelled: bool = False
    came: float = field(default_factory=time.monotonic)

    @cached_property
    def size(self) -> int:
        """Rows that it needs."""
        return sum(len(writing.requests) for writing in self.writings)

    @property
    def chosen_among(self) -> bool:
        """Whether there are candidates to choose among, so that no text is certain before all are written."""
        return any(len(writing.requests) > 1 for writing in self.writings)


def writings_of(
    turns: tuple[str, ...], target: dict[str, str], control: ControlArguments, n: int
) -> list[PendingReply]:
    """The replies of a request, with consecutive seeds, as `Miracle.reply` has them."""
    found = []
    for index in range(n):
        own = replace(control, seed=control.seed + index) if index else control
        requests = [
            Request("\n".join(turns), turns, target, candidate=number) for number in range(own.candidates)
        ]
        found.append(PendingReply(index, own, requests))
    return found


SENT = ("client", "turns", "target", "weights", "decoding", "stops", "stream", "scored", "dropped", "came")  # fmt: skip


def order_of(job: Job) -> tuple[dict[str, Any], ControlArguments, int]:
    """A job that has not begun as another process makes it again: fields, the first reply's settings, number of replies."""
    return {name: getattr(job, name) for name in SENT}, job.writings[0].control, len(job.writings)


def job_of(order: tuple[dict[str, Any], ControlArguments, int], listener: Listener) -> Job:
    """The job of `order_of`, for whoever listens here."""
    fields, control, n = order
    return Job(
        **fields, writings=writings_of(fields["turns"], fields["target"], control, n), listener=listener
    )


def joined(samples: list[Sample]) -> Sample:
    """Samples of several lists of requests as that of all."""
    parts = {}
    for name in vars(samples[0]):
        values = [getattr(sample, name) for sample in samples]
        parts[name] = None if any(value is None for value in values) else torch.cat(values)
    return Sample(**parts)
