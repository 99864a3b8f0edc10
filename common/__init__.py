"""The ground floor: what every other package may use, and what uses none of them."""

import os

__version__ = "0.2.0"

# Threads that wait for one another go to sleep after some microseconds. GNU's OpenMP has them spin for milliseconds, which on a
# machine with other work takes the processor from whom they wait for. It is read when PyTorch is imported, so it
# stands in what is imported before.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
