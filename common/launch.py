"""Begin several processes of one command on this machine. ``NPROC=2 bash train_cvae.sh``, or ``python -m common.launch 2 train_cvae.py --run x``

All words behind the number are the command's, so none of its options can be taken for one of the launcher's (``torchrun``
takes ``--run`` for an abbreviation of its own). The first process prints; what the others print is shown where one of them
fails. A process that fails ends the others; SIGTERM and SIGINT are passed on to all, and the exit status is that of the work.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.entry import run_main
from common.errors import InputError
from common.interruption import handled
from common.processes import LIFELINE, LOST, RENDEZVOUS

LOOK = 0.05  # seconds between looks at who has ended
GRACE = 10.0  # seconds for the others to end by themselves once one has failed
SHOWN = 20  # last lines of a process that failed


def launch(number: int, words: list[str]) -> int:
    """Run ``python <words>`` in several processes and wait for them; returns the exit status: 0, or the first failure's.

    Raises:
        InputError: for a number under 1.
    """
    if number < 1:
        raise InputError(f"NPROC: expected a number of processes of at least 1, found {number}")
    with tempfile.TemporaryDirectory(prefix="miracle-") as folder:
        place, (lifeline, held) = Path(folder), os.pipe()
        try:
            processes = [_begin(rank, number, words, place, lifeline) for rank in range(number)]
            os.close(lifeline)
            return _Watch(processes, place).status()
        finally:
            os.close(held)


def _begin(rank: int, number: int, words: list[str], place: Path, lifeline: int) -> subprocess.Popen:
    """One process, in a group of its own, so that Ctrl-C reaches it once: from here."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // number))}
    own: dict[str, Any] = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, LIFELINE: lifeline, RENDEZVOUS: place / "rendezvous"}  # fmt: skip
    own = own if number > 1 else {LIFELINE: lifeline}
    environment = threads | os.environ | {name: str(value) for name, value in own.items()}
    with open(place / f"{rank}.log", "wb") as log:
        streams: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        streams = streams if rank else {}
        return subprocess.Popen(
            [sys.executable, *words], env=environment, pass_fds=(lifeline,), process_group=0, **streams
        )


class _Watch:
    """Waits for processes, and ends all where one fails or a signal comes."""

    def __init__(self, processes: list[subprocess.Popen], place: Path):
        self.processes, self.place = processes, place
        self.failed: list[int] = []  # ranks in the order in which they were seen to fail
        self.asked: int | None = None  # the signal that came

    def status(self) -> int:
        """Wait for the end of all."""
        with handled(self._pass_on, signal.SIGTERM, signal.SIGINT):
            self._wait(lambda: bool(self.failed))
            if self.failed and self.asked is None:
                ends = time.monotonic() + GRACE
                self._wait(lambda: time.monotonic() > ends and self.asked is None)
                self._end(signal.SIGKILL)
            self._wait(lambda: False)
        return self._verdict()

    def _wait(self, enough: Callable[[], bool]) -> None:
        """Until all have ended, or it is enough."""
        while True:
            running = False
            for rank, process in enumerate(self.processes):
                code = process.poll()
                running |= code is None
                if code and rank not in self.failed:
                    self.failed.append(rank)
            if not running or enough():
                return
            time.sleep(LOOK)

    def _pass_on(self, number: int) -> None:
        self._end(number if self.asked is None else signal.SIGKILL)
        self.asked = number

    def _end(self, number: int) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)

    def _verdict(self) -> int:
        codes = [process.returncode for process in self.processes]
        if not any(codes):
            return 0
        if self.asked is not None:
            return 128 + self.asked
        own = [rank for rank in self.failed if codes[rank] != LOST]
        rank = own[0] if own else self.failed[0]
        code = codes[rank]
        if code < 0:
            name = signal.Signals(-code).name
            print(
                f"error: process {rank} of {len(codes)} was ended by {name}, for want of memory perhaps, and the others with it; the same command goes on",
                file=sys.stderr,
            )
            return 128 - code
        if rank and codes[0] != code:  # what the first one says has been seen
            lines = (self.place / f"{rank}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            print("\n".join([f"process {rank} of {len(codes)} said:", *lines[-SHOWN:]]), file=sys.stderr)
        return code


def main(argv: list[str] | None = None) -> int:
    """The number of processes, then the command's words; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) < 2 or not words[0].isdigit():
        raise InputError(
            f"expected a number of processes and a command, found {' '.join(words) or 'nothing'}; NPROC=2 bash train_cvae.sh"
        )
    return launch(int(words[0]), words[1:])


if __name__ == "__main__":
    run_main(main)
