"""What a worker process saw by its first line, for the test of `experiments.placing`; imports nothing, as that line does."""

import os

AT_FIRST = os.environ.get("CUDA_VISIBLE_DEVICES")


def seen_first() -> str | None:
    """The GPUs that the process saw when it imported this."""
    return AT_FIRST
