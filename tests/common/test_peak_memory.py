"""The most memory held: a block that is freed again still counts, on the CPU as it is resident."""

import time

import numpy as np
import torch

from common.peak_memory import PeakMemory, held


def test_a_block_that_is_freed_counts():
    device = torch.device("cpu")
    before = held(device)
    with PeakMemory(device) as peak:
        block = np.ones(40_000_000)  # 320 MB, touched
        deadline = time.monotonic() + 60
        while peak.megabytes < before + 250 and time.monotonic() < deadline:
            time.sleep(0.01)
        del block
    assert peak.megabytes > before + 250
    with PeakMemory(device) as small:
        pass
    assert small.megabytes < peak.megabytes
