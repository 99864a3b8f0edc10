"""An adaptive ODE solver whose examples each have their own step: Bogacki and Shampine's pair of orders 3 and 2 (1989).

torchdiffeq's adaptive solvers share one step over the batch, so that an example's result depends on its neighbours, and
all of them wait for the stiffest. Here a batch costs what its examples cost; those that have arrived leave it.
"""

import copy
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from model.graphs import recorded

Drift = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # times [B, 1], states [B, D] -> [B, D]
Recorder = Callable[[Callable[[], object]], Callable[[], None] | None]


@runtime_checkable
class CopiedDrift(Protocol):
    """A drift whose recorded attempt can serve another one's examples: it is a function of its tensors and its kind.

    Attributes:
        kind: what decides the drift besides its tensors.
    """

    kind: Hashable

    def __call__(self, time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """As any `Drift`."""
        ...

    def tensors(self) -> list[torch.Tensor]:
        """All that it reads besides times and states; those of an example lie wherever."""
        ...


ORDER = 3
SAFETY, SHRINK, GROW = 0.9, 0.1, 6.0  # of a step's change from one to the next
ARRIVED, SMALLEST = (
    1e-6,
    1e-12,
)  # shares of the whole time: what may be left at the end, and the step at which an example is given up
LOOK_EVERY = {
    "cpu": 2,
    "cuda": 8,
}  # attempts between two looks at who has arrived; on a GPU a look waits for the device
MOST_ROWS = (
    2048  # examples whose recorded attempt is kept for later ones; more are moved together as some arrive
)
MOST_KEPT = 24  # recorded attempts of a thread
FINE = 64  # examples that are recorded for: up to here a power of two, then a multiple


@dataclass(frozen=True)
class Solution:
    """Where the examples are at the stops, and what it took.

    Attributes:
        states: [stops, B, D]; an example that was given up stays where it was.
        nfe: evaluations of the drift per example, [B].
        converged: False where an example was given up, because its step became too small or its attempts ran out, [B].
    """

    states: torch.Tensor
    nfe: torch.Tensor
    converged: torch.Tensor


class _Walk:
    """The examples on their way. All tensors stay where they are, so that an attempt can be recorded as a CUDA graph."""

    FIELDS = ("rows", "state", "time", "slope", "length", "nfe")

    def __init__(
        self, drift_of: Callable[[torch.Tensor], Drift], state: torch.Tensor, whole: float, tolerance: float
    ):
        self.drift_of, self.whole, self.tolerance = drift_of, whole, tolerance
        self.rows = torch.arange(state.shape[0], device=state.device)
        self.drift = drift_of(self.rows)
        self.state, self.time = state.clone(), state.new_zeros(state.shape[0], 1)
        self.slope = self.drift(self.time, self.state)
        self.end = state.new_zeros(1)
        self.nfe = torch.ones_like(self.rows)
        self.length = (0.5 / self._size(self.slope, self.state)).clamp(
            max=whole
        )  # of the next step, [B, 1]; the first moves by half the tolerance

    def _size(self, vector: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Root mean square over the dimensions in units of the tolerance, [B, 1]."""
        return (vector / (1.0 + state.abs())).square().mean(1, keepdim=True).sqrt() / self.tolerance

    def attempt(self) -> None:
        """One step of every example that has not arrived; taken where its error is small enough, else shortened."""
        left = self.end - self.time
        going = self._goes()
        step = torch.where(going, torch.minimum(self.length, left), 0.0)
        first, state = self.slope, self.state
        second = self.drift(self.time + 0.5 * step, torch.addcmul(state, step, first, value=0.5))
        third = self.drift(self.time + 0.75 * step, torch.addcmul(state, step, second, value=0.75))
        mean = (first * (2 / 9)).add_(second, alpha=1 / 3).add_(third, alpha=4 / 9)
        new = torch.addcmul(state, step, mean)
        fourth = self.drift(self.time + step, new)  # is the next step's first
        difference = (
            (first * (-5 / 72)).add_(second, alpha=1 / 12).add_(third, alpha=1 / 9).add_(fourth, alpha=-1 / 8)
        )
        error = self._size(difference.mul_(step), torch.maximum(state.abs(), new.abs()))
        error = torch.where(torch.isfinite(error), error, 1e10)
        taken = going & (error <= 1.0)
        change = (SAFETY * error.clamp_min(1e-10) ** (-1 / ORDER)).clamp(SHRINK, GROW)
        proposed = step * torch.where(taken, change, change.clamp(max=SAFETY))
        cut = taken & (step < self.length)  # by the stop, not by the error
        self.length.copy_(
            torch.where(going, torch.where(cut, torch.maximum(self.length, proposed), proposed), self.length)
        )
        self.time.add_(torch.where(taken, step, 0.0))
        self.state.copy_(torch.where(taken, new, state))
        self.slope.copy_(torch.where(taken, fourth, first))
        self.nfe.add_(3 * going.squeeze(1))

    def going(self) -> torch.Tensor:
        """Rows that have neither arrived nor been given up, [n]."""
        return self._goes().squeeze(1).nonzero().squeeze(1)

    def _goes(self) -> torch.Tensor:
        return (self.end - self.time > ARRIVED * self.whole) & (self.length > SMALLEST * self.whole)

    def part(self, chosen: torch.Tensor) -> "_Walk":
        """These rows alone."""
        walk = object.__new__(_Walk)
        walk.drift_of, walk.whole, walk.tolerance, walk.end = (
            self.drift_of,
            self.whole,
            self.tolerance,
            self.end,
        )
        for name in self.FIELDS:
            setattr(walk, name, getattr(self, name)[chosen])
        walk.drift = self.drift_of(walk.rows)
        return walk

    def take(self, other: "_Walk") -> None:
        """Go on with the examples of a walk of the same shape and the same kind of drift, in this one's own tensors."""
        assert isinstance(self.drift, CopiedDrift) and isinstance(other.drift, CopiedDrift)
        for name in (*self.FIELDS, "end"):
            getattr(self, name).copy_(getattr(other, name))
        for own, value in zip(self.drift.tensors(), other.drift.tensors()):
            own.copy_(value)


class _KeptWalks(threading.local):
    """A thread's recorded attempts, each with the walk whose tensors it reads and writes."""

    def __init__(self):
        self.by_shape: dict[Hashable, tuple[_Walk, Callable[[], None]]] = {}


_kept = _KeptWalks()


def _kept_walk(walk: _Walk, record: Recorder) -> tuple[_Walk, Callable[[], None]] | None:
    """A walk with these examples and its recorded attempt, an earlier one's where shapes and drift agree; None where
    the attempt cannot be recorded."""
    drift, kept = walk.drift, _kept.by_shape
    assert isinstance(drift, CopiedDrift)
    shapes = tuple((part.shape, part.dtype, part.device) for part in (walk.state, *drift.tensors()))
    key = drift.kind, shapes, walk.whole, walk.tolerance
    if key not in kept:
        own = copy.copy(walk)
        own.drift = copy.deepcopy(drift)  # tensors that nobody else reads or writes
        for name in (*walk.FIELDS, "end"):
            setattr(own, name, getattr(walk, name).clone())
        own.attempt()  # what is recorded has been run before
        replay = record(own.attempt)
        if replay is None:
            return None
        if len(kept) >= MOST_KEPT:
            kept.clear()
        kept[key] = own, replay
    own, replay = kept[key]
    own.take(walk)
    return own, replay


def solve_rowwise(
    drift_of: Callable[[torch.Tensor], Drift],
    state: torch.Tensor,
    stops: list[float],
    tolerance: float,
    max_attempts: int = 2000,
    graphs: bool = False,
) -> Solution:
    """Integrate from time 0 through the stops.

    Args:
        drift_of: rows [n] -> the drift of those examples.
        state: at time 0, [B, D].
        stops: rising times over 0, at which the states are kept; the last is the end.
        tolerance: of a step's error, root mean square over the dimensions, relative to 1 + |state|.
        max_attempts: steps, taken or not, from one stop to the next.
        graphs: the drift reads nothing back from the device, so an attempt may be recorded as a CUDA graph.

    Returns:
        A `Solution`; each row depends on nothing but itself.
    """
    if graphs and state.is_cuda and len(state) <= MOST_ROWS:
        solution = solve_recorded(drift_of, state, stops, tolerance, max_attempts)
        if solution is not None:
            return solution
    everyone = walk = _Walk(drift_of, state, stops[-1], tolerance)
    look_every = LOOK_EVERY.get(state.device.type, LOOK_EVERY["cuda"])
    graphs = graphs and state.is_cuda
    states = []
    for stop in stops:
        everyone.end.fill_(stop)
        walk, replay = everyone, None
        for attempt in range(max_attempts):
            if attempt % look_every == 0:
                going = walk.going()
                if going.numel() == 0:
                    break
                if (
                    going.numel() <= 0.8 * walk.rows.numel()
                ):  # moving the rest costs as much as some evaluations
                    _store(walk, everyone)
                    walk, replay = walk.part(going), None
            if replay is not None:
                replay()
            else:
                walk.attempt()
                replay = recorded(walk.attempt) if graphs else None
                graphs = replay is not None
        _store(walk, everyone)
        states.append(everyone.state.clone())
    return Solution(
        torch.stack(states),
        everyone.nfe,
        (everyone.end - everyone.time <= ARRIVED * everyone.whole).squeeze(1),
    )


def solve_recorded(
    drift_of: Callable[[torch.Tensor], Drift],
    state: torch.Tensor,
    stops: list[float],
    tolerance: float,
    max_attempts: int = 2000,
    record: Recorder = recorded,
) -> Solution | None:
    """`solve_rowwise` with an attempt that is recorded once for every rounded number of examples, and kept.

    The last example stands in for those that are missing. Nobody leaves on the way: so few examples take a GPU as long as
    half of them. Arguments as there; None where nothing can be recorded, or the drift is no `CopiedDrift`.
    """
    count = len(state)
    if count == 0:
        return None
    wide = 1 << (count - 1).bit_length() if count <= FINE else -(-count // FINE) * FINE
    rows = torch.arange(wide, device=state.device).clamp_max(count - 1)
    begun = _Walk(lambda chosen: drift_of(rows[chosen]), state[rows], stops[-1], tolerance)
    if not isinstance(begun.drift, CopiedDrift) or any(part.requires_grad for part in begun.drift.tensors()):
        return None
    if (found := _kept_walk(begun, record)) is None:
        return None
    (walk, replay), states = found, []
    for stop in stops:
        walk.end.fill_(stop)
        for attempt in range(max_attempts):
            if attempt % LOOK_EVERY["cuda"] == 0 and walk.going().numel() == 0:
                break
            replay()
        states.append(walk.state[:count].clone())
    arrived = (walk.end - walk.time <= ARRIVED * walk.whole).squeeze(1)
    return Solution(torch.stack(states), walk.nfe[:count].clone(), arrived[:count])


def _store(walk: _Walk, everyone: _Walk) -> None:
    """Bring the rows of a part back to their places."""
    if walk is not everyone:
        for name in walk.FIELDS[1:]:
            getattr(everyone, name)[walk.rows] = getattr(walk, name)
