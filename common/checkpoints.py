"""Which file of a checkpoint is damaged: looked for where one cannot be loaded."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.errors import InputError
from common.jsonl import is_file, json_value
from common.shapes import first_not_finite

JSON_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "adapter_config.json",
)


def damaged_file(folder: Path) -> str | None:
    """The first file that is damaged and how, ``config.json: not UTF-8 JSON (...)``; None where all can be read."""
    return damaged_settings(folder) or _damaged_weights(folder)


def damaged_settings(folder: Path) -> str | None:
    """The same of configuration and tokenizer alone."""
    for name in JSON_FILES:
        path = folder / name
        try:
            if not is_file(path):
                continue
            value = json_value(path.read_bytes(), strict=False)
        except InputError as error:  # no file
            return f"{name}{str(error).removeprefix(str(path))}"
        except (ValueError, OSError) as error:
            return f"{name}: not UTF-8 JSON ({error})"
        if not isinstance(value, dict):
            return f"{name}: expected a JSON object, found {type(value).__name__}"
        if wrong := first_not_finite(value):
            return f"{name}: {wrong}"
    return None


def missing_file(folder: Path, *names: str) -> str | None:
    """The first of some files that is not there, ``config.json: not there``; None where all are.

    Libraries look for such a file on the hub, and then speak of names of repositories.
    """
    return next((f"{name}: not there" for name in names if not (folder / name).is_file()), None)


def _damaged_weights(folder: Path) -> str | None:
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name}: {' '.join(str(error).split())[:120]}"
    return None


def cannot_be_loaded(folder: Path, what: str, error: BaseException | str, remedy: str) -> InputError:
    """The one line for a checkpoint that its library could not load: the file and what is wrong, then what to run."""
    reason = damaged_file(folder) or f"{' '.join(f'{error}'.split())[:200] or type(error).__name__}"
    return InputError(f"{folder}: the {what} cannot be loaded ({reason}); {remedy}")
