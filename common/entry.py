"""How a script starts and ends: quiet libraries, one clear line and exit status 2 for bad input."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable

from common import processes
from common.errors import InputError
from common.interruption import ending_at_sigterm
from common.network import hub_mistake
from common.option_errors import option_mistake
from common.system_errors import print_anything, system_mistake


class Parser(argparse.ArgumentParser):
    """For tools without presets: a mistake on the command line ends like every other bad input, in one line."""

    def error(self, message: str):
        """Raises `InputError`."""
        raise InputError(f"{message} (see --help)")


def seed_of(text: str) -> int:
    """A seed on the command line; argparse names the option where it is none."""
    if (seed := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, found {seed}")
    return seed


def prepare_libraries() -> None:
    """Keep third-party chatter off the terminal; to be called before `transformers` or `datasets` is imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if processes.several():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no advice on how gradients are averaged
    if not processes.is_first():
        os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings(
        "ignore", message=".*is_gradient_checkpointing.*"
    )  # peft asks transformers by an old name


def quiet_transformers() -> None:
    """Switch off its bars for reading and writing weights, if it is imported at all, and its doubts about file times; training keeps its own bar."""
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    logging.getLogger("transformers.trainer_utils").addFilter(
        lambda record: "mtime may not" not in record.getMessage()
    )


def run_main(main: Callable[[list[str] | None], int]) -> None:
    """Run a script's ``main`` and exit with its status.

    A user's mistake (`common.errors.InputError`, a base that is not found, a setting that a module refuses), the environment's
    (proxies, certificates) or the system's (a full disk) is printed as one line and ends with status 2; with ``MIRACLE_DEBUG=1`` the traceback is shown too. Ctrl-C ends with status 130, SIGTERM with 143.
    Of several processes (`common.processes`) one that only lost another says so and ends with status 75.
    """
    quiet_transformers()
    print_anything()
    if not processes.is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (one of several prints)
    try:
        with ending_at_sigterm():
            processes.join()
            status = main(None)
            processes.leave()
    except KeyboardInterrupt as stop:  # who knows what is kept says so (`common.interruption.Interrupted`)
        print(f"\n{' '.join(str(stop).split()) or 'interrupted'}", file=sys.stderr)
        status = getattr(stop, "status", 130)
    except Exception as error:
        if processes.lost_another(error) and not os.environ.get("MIRACLE_DEBUG"):
            print("error: another process of this work has ended, and this one with it", file=sys.stderr)
            sys.stderr.flush()
            os._exit(processes.LOST)  # nobody is left to part from
        if (message := message_for(error)) is None or os.environ.get("MIRACLE_DEBUG"):
            raise
        print(f"error: {message}", file=sys.stderr)
        status = 2
    sys.exit(status)


def message_for(error: BaseException) -> str | None:
    """What to print for an error in place of its traceback; None where the traceback is needed."""
    if not is_user_error(error):
        return hub_mistake(error) or system_mistake(error) or option_mistake(error)
    mistake = (
        None if isinstance(error, InputError) else hub_mistake(error)
    )  # a base that is not found, for what reason
    return " ".join(str(error).split()) + (f"; {mistake}" if mistake else "")


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone is what the user needs."""
    bases = sys.modules.get("model.bases")  # not imported, not raised
    return isinstance(error, InputError) or (bases is not None and isinstance(error, bases.BaseNotFound))
