"""Several processes that do one work together: who this one is, how they wait for one another, how they tell each other.

``NPROC=2 bash train_cvae.sh`` begins them (`common.launch`), and so do ``torchrun`` and ``accelerate launch``: they set RANK
and WORLD_SIZE. In a single process everything here does nothing and costs nothing.
"""

import os
import pickle
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from common.errors import InputError

if TYPE_CHECKING:
    import torch.distributed

Value = TypeVar("Value")

PATIENCE = timedelta(
    days=7
)  # the first one may train a tokenizer or write a report meanwhile; who starts them sees who ends
RENDEZVOUS, LIFELINE = "MIRACLE_RENDEZVOUS", "MIRACLE_LIFELINE"  # set by `common.launch`
LOST = 75  # exit status of a process whose work ended because another one was gone

_control: "torch.distributed.ProcessGroup | None" = None


def _number(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else otherwise


def count() -> int:
    """How many processes there are."""
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return _number("RANK", 0) if several() else 0


def several() -> bool:
    """Whether there is more than one."""
    return count() > 1


def is_first() -> bool:
    """Whether this one writes files and prints, alone of all."""
    return rank() == 0


def join() -> None:
    """Meet the other processes; with GPUs each takes one of its own.

    Raises:
        InputError: for more processes on a machine than it has GPUs.
    """
    global _control
    if not several() or _control is not None:
        return
    import torch
    from torch import distributed

    end_with_launcher()
    here = _number("LOCAL_RANK", rank())
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = (
            "true"  # else `accelerate` takes several processes on a CPU for one
        )
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true"):
        cards, asked = torch.cuda.device_count(), _number("LOCAL_WORLD_SIZE", count())
        if here >= cards:
            raise InputError(f"{asked} processes on a machine with {cards} GPUs; expected at most one each")
        torch.cuda.set_device(here)
    if not distributed.is_initialized():
        place = os.environ.get(RENDEZVOUS)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            init_method=f"file://{place}" if place else "env://",
            rank=rank(),
            world_size=count(),
        )
    _control = distributed.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """Part from the others, at the end of work that went well."""
    global _control
    if _control is None:
        return
    from torch import distributed

    distributed.barrier(group=_control)
    _control = None
    distributed.destroy_process_group()


def wait_for_all() -> None:
    """Go on once all processes are here."""
    if several():
        from torch import distributed

        join()
        distributed.barrier(group=_control)


def by_first(work: Callable[[], Value]) -> Value:
    """What the first process makes, given to all of them, which wait; an error of its is raised in all.

    Args:
        work: what it returns can be pickled.
    """
    if not several():
        return work()
    from torch import distributed

    join()
    told: list[Any] = [None, None]
    if is_first():
        try:
            told[0] = work()
        except Exception as error:
            distributed.broadcast_object_list([None, _portable(error)], src=0, group=_control)
            raise
    distributed.broadcast_object_list(told, src=0, group=_control)
    if told[1] is not None:
        raise told[1]
    return told[0]


def _portable(error: Exception) -> Exception:
    """An error that can be sent; one that cannot be is told by its text."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def collected(value: Value) -> list[Value]:
    """Every process's value, by rank, in the first process; an empty list in the others."""
    if not several():
        return [value]
    from torch import distributed

    join()
    found: list[Any] = [None] * count()
    distributed.gather_object(value, found if is_first() else None, dst=0, group=_control)
    return found if is_first() else []


def greatest(number: int) -> int:
    """The greatest of the processes' numbers, in all of them."""
    if not several():
        return number
    import torch
    from torch import distributed

    join()
    value = torch.tensor(number)
    distributed.all_reduce(value, distributed.ReduceOp.MAX, group=_control)
    return int(value)


def end_with_launcher() -> None:
    """End this process when the one that began it is gone, however that ended: its end of a pipe closes."""
    if not (number := os.environ.pop(LIFELINE, "")):
        return
    lifeline = int(number)

    def watch() -> None:
        while os.read(lifeline, 1):
            pass
        os._exit(LOST)

    threading.Thread(target=watch, daemon=True, name="end with launcher").start()


def lost_another(error: BaseException) -> bool:
    """Whether an error says no more than that another process is gone; that one says why, or who began it does."""
    if not several():
        return False
    from torch import distributed

    words = (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "recvd an unexpected number of bytes",
        "remote process exited",
    )
    one: BaseException | None = error
    while one is not None:
        if isinstance(one, distributed.DistNetworkError) or (
            isinstance(one, RuntimeError) and any(word in str(one) for word in words)
        ):
            return True
        one = one.__cause__ or one.__context__
    return False
