"""A training that is told to end does so after the step under way, with a checkpoint to go on from."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from transformers import Trainer, TrainerCallback

from common import processes
from common.interruption import NAMES, Interrupted, handled, leave

TWICE = 2.0  # seconds within which a signal comes twice where a scheduler sends it to all processes, and their launcher passes it on


class StopAtSignal(TrainerCallback):
    """Saves a checkpoint and stops the training at the end of the step in which the signal came.

    Of several processes all stop at the same step, whichever the signal came to.

    Attributes:
        number: of the signal; None as long as none came.
        saved: the step whose checkpoint was written because of it.
    """

    def __init__(self, name: str):
        self.name, self.number, self.saved = name, None, None
        self.came = 0.0  # when

    def note(self, number: int) -> None:
        """Take in a signal; the second one ends the process at once."""
        if self.number is None:
            self.number, self.came = number, time.monotonic()
        elif not processes.several() or time.monotonic() - self.came > TWICE:
            leave(number)

    def on_step_end(self, args, state, control, **kwargs):
        """Ask the trainer to save and to stop."""
        if processes.several() and (number := processes.greatest(self.number or 0)) and self.number is None:
            self.note(number)  # it came to another process
        if self.number is not None:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        """Note that the checkpoint is whole: this comes behind its last file."""
        if self.number is not None:
            self.saved = state.global_step


@contextmanager
def stopping_at_signals(trainer: Trainer, name: str) -> Iterator[None]:
    """Train under SIGTERM and SIGINT.

    Raises:
        Interrupted: after the step in which one of them came; says which checkpoint is there.
    """
    stop = StopAtSignal(name)
    trainer.callback_handler.callbacks.insert(
        0, stop
    )  # what looks at weights before they are saved comes behind it
    with handled(stop.note, signal.SIGTERM, signal.SIGINT):
        yield
    trainer.remove_callback(stop)
    if stop.number is None:
        return
    sys.stdout.flush()
    kept = (
        f"checkpoint-{stop.saved} is saved, and the same command goes on from it"
        if stop.saved is not None
        else "the same command goes on from the last checkpoint, where there is one"
    )
    raise Interrupted(
        f"{name}: stopped by {NAMES[stop.number]} after step {trainer.state.global_step}; {kept}", stop.number
    )
