"""YAML files of options, read safely: presets, grids and prices."""

import itertools
from pathlib import Path
from typing import Any

import yaml

from common.errors import InputError
from common.shapes import too_much

MOST_BYTES = 1_000_000  # some hundred times our longest grid; PyYAML takes seconds for more
DEEPEST, MOST_VALUES = 32, 100_000
MOST_OPEN = 500  # brackets before their ends; over a thousand, PyYAML takes seconds to give up


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        InputError: in one line, for what is no YAML in UTF-8, and for what no file of options holds: over `MOST_BYTES`, values
            nested deeply, aliases that stand for millions of values.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(
            f"{path}: {size / 1e6:.1f} MB; a YAML file of options has at most {MOST_BYTES / 1e6:g}"
        )
    raw = path.read_bytes()
    if raw.count(b"[") + raw.count(b"{") > MOST_OPEN and _open(raw) > MOST_OPEN:
        raise InputError(f"{path}: brackets nested too deep")
    try:
        content = yaml.safe_load(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: brackets nested too deep") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of dates and numbers that are none
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split()):.200})") from None
    if reason := too_much(content, DEEPEST, MOST_VALUES):
        raise InputError(f"{path}: {reason}")
    return content


def _open(raw: bytes) -> int:
    """How many brackets are open at once at most, those in quoted texts included."""
    steps = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
    return max(itertools.accumulate(steps[byte] for byte in raw if byte in steps))
