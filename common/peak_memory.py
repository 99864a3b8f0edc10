"""The most memory that a piece of work holds: of the GPU what PyTorch has allocated, on the CPU the process's resident set."""

import threading
from types import TracebackType

import psutil
import torch

EVERY = (
    0.02  # seconds between two looks at the resident set, which has no mark of its own that can be set back
)


def held(device: torch.device) -> float:
    """Megabytes (10^6 bytes) held now: allocated by PyTorch on CUDA, else resident in memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 1e6
    return psutil.Process().memory_info().rss / 1e6


class PeakMemory:
    """``with PeakMemory(device) as peak: work()``; afterwards ``peak.megabytes`` is the most that was held meanwhile.

    On CUDA it is exact, of PyTorch's own allocations (`torch.cuda.max_memory_allocated`); it sets their mark back, so two of
    these cannot be nested there. Elsewhere a thread looks at the process's resident set, in which what was freed may still
    count, and a peak of less than `EVERY` seconds may be missed.
    """

    def __init__(self, device: torch.device):
        self.device, self.megabytes = device, 0.0
        self._done = threading.Event()

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self.megabytes = held(self.device)
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(EVERY):
            self.megabytes = max(self.megabytes, held(self.device))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 1e6
        else:
            self._done.set()
            self._watcher.join()
            self.megabytes = max(self.megabytes, held(self.device))
