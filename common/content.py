"""What lies in a file or in a base model's folder, as a hash: the same on every machine, wherever it lies."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.model")  # fmt: skip
MACHINES_OWN = ("_name_or_path", "transformers_version")  # of a config.json; they do not change the model


def content_of(path: Path | str | None) -> str | None:
    """The first 16 hex digits of a BLAKE2 hash over a file, or over configuration, tokenizer and weights of a base.

    Args:
        path: a file, the folder of a checkpoint, or what is neither: a hub name or ``scratch``, which stands for itself.

    Returns:
        The hash, the name where nothing of it lies here, None for None.
    """
    if path is None:
        return None
    path, name = Path(path), str(path)
    if path.is_file():
        return _file_hash(path)
    if not path.is_dir():
        return name
    digest = hashlib.blake2b(digest_size=8)
    for file in _checkpoint_files(path):
        digest.update(f"{file.relative_to(path)} ".encode())
        digest.update((_config_hash(file) if file.name == "config.json" else _file_hash(file)).encode())
    return digest.hexdigest()


def _checkpoint_files(folder: Path) -> list[Path]:
    """What a model is loaded from; weights of PyTorch's own format count where there are no safetensors."""
    weights = sorted(folder.rglob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return [*sorted(folder.glob("config.json")), *sorted({f for p in TOKENIZERS for f in folder.rglob(p) if f.is_file()}), *weights]  # fmt: skip


def _config_hash(path: Path) -> str:
    try:
        settings = json.loads(path.read_bytes())
    except ValueError:
        return _file_hash(path)  # who loads it says what is wrong
    if isinstance(settings, dict):
        settings = {key: value for key, value in settings.items() if key not in MACHINES_OWN}
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=8).hexdigest()


def _file_hash(path: Path) -> str:
    stat = path.stat()
    return _hash_once(str(path.resolve()), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _hash_once(path: str, mtime: int, size: int) -> str:
    """A second or so per 500 MB, so a file is read again only where its time or size is another."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
