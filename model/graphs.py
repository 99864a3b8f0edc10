"""CUDA graphs: work that is the same every time is recorded once and launched as one."""

import logging
import threading
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


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
