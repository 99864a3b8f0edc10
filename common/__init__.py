"""The ground floor: what every other package may use, and what uses none of them."""

import os

__version__ = "0.2.0"

# Threads that wait for one another go to sleep. Spinning, which OpenMP does otherwise, multiplies the time of small models on a
# machine with other work. It is read when PyTorch is imported, so it stands in what is imported before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
