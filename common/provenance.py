"""A run's folder: what was done, with what, and whether it is finished."""

import hashlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.options import ROOT

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "transformers",
    "torchdiffeq",
    "datasets",
    "accelerate",
    "numpy",
    "sacrebleu",
    "rouge-score",
    "scikit-learn",
)


def package_versions() -> dict[str, str | None]:
    """Installed versions of what a result depends on (None: not installed), and Python's."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _git(*words: str) -> str:
    """What git prints, of the repository that the code lies in."""
    command = ["git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def git_revision() -> str | None:
    """The commit this code is at, with ``+changes`` where files differ from it; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if dirty else "")


def device_name(device: "torch.device | None" = None) -> str:
    """The accelerator's name, or ``cpu`` with the number of threads; of the best device there is where None."""
    import torch

    from common.devices import choose_device

    device = device or choose_device()
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def relative(path: Path | str | None) -> str | None:
    """A path as it is recorded: from the repository's root where it lies inside, else its last part; no machine's paths."""
    if path is None:
        return None
    path = Path(path)
    absolute = path.resolve()
    return str(absolute.relative_to(ROOT)) if absolute.is_relative_to(ROOT) else path.name


def command_line() -> str:
    """The command as recorded in results, without folders outside the repository."""
    words = [
        re.sub(r"^(--?[\w.-]+=)?(/.*)", lambda found: (found[1] or "") + str(relative(found[2])), word)
        for word in sys.argv
    ]
    return " ".join(["python", *words])


def fingerprint(settings: dict, files: list[Path | None]) -> str:
    """A hash of all settings and of the content of all files: equal means that the work would come out the same."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        digest.update(b"\x00" if path is None or not path.is_file() else _sha256(path))
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> bytes:
    with open(path, "rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Work that may need more memory than the device has; then it ends in one line with the advice.

    Raises:
        InputError: the advice, and the device's name.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{advice} ({device_name()})") from error
