"""Which file of a checkpoint is damaged: looked for where one cannot be loaded."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from common.errors import InputError
from common.jsonl import json_value

JSON_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "adapter_config.json",
)


def damaged_file(folder: Path) -> str | None:
    """The first file that is damaged and how, ``config.json: not UTF-8 JSON (...)``; None where all can be read."""
    for name in JSON_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            value = json_value(path.read_bytes(), strict=False)
        except (ValueError, OSError) as error:
            return f"{name}: not UTF-8 JSON ({error})"
        if not isinstance(value, dict):
            return f"{name}: expected a JSON object, found {type(value).__name__}"
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np"):
                pass
        except (SafetensorError, OSError) as error:
            return f"{path.name}: {' '.join(str(error).split())[:120]}"
    return None


def cannot_be_loaded(folder: Path, what: str, error: BaseException, remedy: str) -> InputError:
    """The one line for a checkpoint that its library could not load: the file and what is wrong, then what to run."""
    reason = damaged_file(folder) or f"{' '.join(f'{error}'.split())[:200] or type(error).__name__}"
    return InputError(f"{folder}: the {what} cannot be loaded ({reason}); {remedy}")
