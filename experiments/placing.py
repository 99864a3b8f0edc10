"""Worker processes on several GPUs, each of which sees one. What a worker imports first: no library that is large, or looks at GPUs."""

import os
from multiprocessing.context import SpawnContext, SpawnProcess

VISIBLE = "CUDA_VISIBLE_DEVICES"


class PlacingContext(SpawnContext):
    """Begins processes that see one GPU each, in turn.

    A process must not see the others from its first line on: a library that it imports may look at the GPUs (`bitsandbytes`
    does), and what is said after that is not heard.

    Args:
        gpus: as ``CUDA_VISIBLE_DEVICES`` names them; none: nothing is said.
    """

    def __init__(self, gpus: list[str]):
        super().__init__()
        self.gpus, self.begun = gpus, 0

    def Process(self, *args, **kwargs) -> SpawnProcess:
        """A process that sees the next GPU."""
        process = PlacedProcess(*args, **kwargs)
        process.number, self.begun = self.begun, self.begun + 1
        process.gpu = self.gpus[process.number % len(self.gpus)] if self.gpus else None
        return process


class PlacedProcess(SpawnProcess):
    """A process that sees one GPU.

    Attributes:
        number: from 0, in the order of beginning.
        gpu: which; None: whatever this process sees.
    """

    number = 0
    gpu: str | None = None

    def start(self) -> None:
        """Begin, with the environment of now and that GPU."""
        before = os.environ.get(VISIBLE)
        try:
            if self.gpu is not None:
                os.environ[VISIBLE] = self.gpu
            super().start()
        finally:
            if before is not None:
                os.environ[VISIBLE] = before
            elif self.gpu is not None:
                del os.environ[VISIBLE]


def visible_gpus() -> list[str]:
    """The GPUs that may be used, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get(VISIBLE)
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]
