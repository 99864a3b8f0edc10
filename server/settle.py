"""How a process that serves is set up once its model is loaded."""

import gc
import sys

SWITCH = 0.0005  # seconds that requests are read for at most while the model's thread waits to go on


def settle() -> None:
    """Threads take turns quickly, and the garbage collector does not look through what is there to stay.

    A collection that does stops all threads for some tenths of a second.
    """
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()
