"""Worker processes that end with the process that began them, however that ends."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """End this process when its parent is gone; to be called in a process that `multiprocessing` began.

    A thread waits for the parent's end on every system; on Linux the kernel ends the process too, even where the
    thread does not come to run.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end with parent").start()
