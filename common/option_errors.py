"""What `transformers` and `accelerate` refuse of their options, mostly once a training begins, as one line."""

import sys
from types import TracebackType

PACKAGES = ("transformers.", "accelerate.")
LIBRARIES = (
    "transformers.trainer",
    "transformers.training_args",
    "transformers.modeling_utils",
    "transformers.optimization",
    "transformers.integrations",
    "transformers.hyperparameter_search",
    "accelerate.",
)


def option_mistake(error: BaseException) -> str | None:
    """The line for an option's value that a library of ours turned down, or for a package that an option needs; else None."""
    text, raised_in = " ".join(str(error).split()), _raised_in(error.__traceback__)
    # an import that fails names its module, a package that a library demands stands in the text
    if isinstance(error, ImportError) and error.name is None and raised_in.startswith(PACKAGES):
        return text
    if isinstance(error, (ValueError, TypeError, NotImplementedError)) and raised_in.startswith(LIBRARIES):
        return f"an option that transformers cannot use: {text}"
    return None


def _raised_in(trace: TracebackType | None) -> str:
    """The module that raised an error, but for the standard library's."""
    name = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        name = name if module.partition(".")[0] in sys.stdlib_module_names else module
        trace = trace.tb_next
    return name
