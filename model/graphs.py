"""CUDA graphs: work that is the same every time is recorded once and launched as one."""

import logging
from collections.abc import Callable

import torch

logger = logging.getLogger(__name__)


def recorded(work: Callable[[], None], pool: tuple[int, int] | None = None) -> Callable[[], None]:
    """`work` as a CUDA graph; where it cannot be recorded, `work` itself.

    A small kernel is done before the next one has been asked for, so a model's step of a thousand kernels takes as long
    as Python needs to ask. A graph asks once.

    Args:
        work: launches kernels on tensors that stay where they are, reads nothing back from the device, and has been run
            at least once. Recording does not run it.
        pool: memory shared with other graphs that are never replayed at the same time, ``torch.cuda.graph_pool_handle()``.

    Returns:
        What runs the work; it keeps the graph, and with it the memory of the work's intermediate tensors.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(*(() if pool is None else (pool,)), capture_error_mode="thread_local")  # other threads may go on allocating
            try:
                work()
            finally:
                graph.capture_end()
    except RuntimeError as error:
        logger.warning("a step could not be recorded as a CUDA graph and is slower for it: %s", str(error).splitlines()[0])
        torch.cuda.synchronize()
        return work
    torch.cuda.current_stream().wait_stream(stream)
    return graph.replay
