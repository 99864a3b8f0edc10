"""CUDA graphs: work that is the same every time is recorded once and launched as one."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch

from model.transfers import pinned

logger = logging.getLogger(__name__)

Recording = tuple[dict[str, torch.Tensor], torch.Tensor, Callable[[], None]]  # inputs, result, what runs it


class _Place(threading.local):
    """Where a thread records: one stream and one pool of memory, as it replays its graphs one after the other.

    A pool is gone with its last graph, so one that does nothing stays.
    """

    def __init__(self):
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        self.nothing, number = torch.cuda.CUDAGraph(), torch.zeros(1, device="cuda")
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.nothing.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            number.add_(0)
            self.nothing.capture_end()


_place: _Place | None = None


def recorded(work: Callable[[], object]) -> Callable[[], None] | None:
    """`work` as a CUDA graph, or None where it cannot be recorded; the log then says why.

    A small kernel is done before the next one has been asked for, so a model's step of a thousand kernels takes as long
    as Python needs to ask. A graph asks once.

    Args:
        work: launches kernels on tensors that stay where they are, reads nothing back from the device, and has been run
            at least once. Recording does not run it. What it writes counts until the thread's next graph is run: its
            intermediate tensors share their memory with those of other graphs.

    Returns:
        What runs the work. It belongs to this thread.
    """
    global _place
    _place = _place or _Place()
    graph, stream = torch.cuda.CUDAGraph(), _place.stream
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(
                pool=_place.pool, capture_error_mode="thread_local"
            )  # other threads may go on allocating
            try:
                work()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        logger.warning(
            "a step could not be recorded as a CUDA graph and is slower for it: %s",
            str(error).splitlines()[0],
        )
        _place = None  # a pool stays unusable after a failure
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return None
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay


class Recordings:
    """A function of tensors that is recorded for every shape of them.

    Other threads have recordings of their own.

    Args:
        function: inputs by name -> a tensor; it reads nothing back from the device, and what it reads besides its inputs
            stays where it is. It may be called twice for the same inputs.
        device: where the inputs go.
        most: shapes that are kept, those that came last.

    Attributes:
        wanted: whether anything is recorded: on a GPU, until something could not be.
    """

    def __init__(
        self,
        function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        device: torch.device,
        most: int = 32,
    ):
        self.function, self.device, self.most = function, device, most
        self.wanted = device.type == "cuda"
        self._of_thread = threading.local()

    @torch.no_grad()
    def __call__(
        self,
        inputs: dict[str, torch.Tensor],
        record: Callable[[Callable[[], object]], Callable[[], None] | None] = recorded,
    ) -> torch.Tensor:
        """What the function makes of the inputs; of those that were recorded it counts until the thread's next recording runs.

        A shape is recorded when it comes for the second time.
        """
        if not self.wanted:
            return self.function({name: value.to(self.device) for name, value in inputs.items()})
        recordings: dict[Any, Recording | None] = self._of_thread.__dict__
        shape = tuple((name, *value.shape) for name, value in inputs.items())
        seen_before, recording = shape in recordings, recordings.pop(shape, None)
        if recording is not None:
            own, made, replay = recording
            for name, value in inputs.items():
                own[name].copy_(pinned(value, self.device), non_blocking=True)
            replay()
            recordings[shape] = recording  # as the last
            return made
        own = {name: value.to(self.device, copy=True) for name, value in inputs.items()}
        made = self.function(own)
        if len(recordings) >= self.most:
            del recordings[next(iter(recordings))]
        recordings[shape] = None
        if seen_before:
            kept = made.clone()
            work = record(lambda: kept.copy_(self.function(own)))
            self.wanted = work is not None
            if work is not None:
                recordings[shape] = own, kept, work
        return made

    @property
    def shapes(self) -> int:
        """How many shapes this thread has seen, of those that are kept."""
        return len(self._of_thread.__dict__)

    def clear(self) -> None:
        """Forget this thread's recordings: what they read has moved."""
        self._of_thread.__dict__.clear()
