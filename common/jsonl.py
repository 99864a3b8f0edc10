"""JSON and JSON Lines in and out: errors name the file and the line, and a file appears only once it is complete."""

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import replacing
from common.records import mistake_in
from common.shapes import too_much

DEEPEST = 64  # objects and lists in one another; ours have seven
GZIP = b"\x1f\x8b"
OTHER_FILES = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive or Excel file",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


def advice(where: str) -> str:
    """How to bring a file in; `where` may have a line behind it."""
    path, colon, line = where.rpartition(":")
    return f"bring it in with: bash scripts/import_data.sh {path if colon and line.isdigit() else where} --output <file.jsonl>"


def read_jsonl(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield ``("file.jsonl:12", row)`` for every non-blank line.

    Raises `InputError` for a missing or empty file, a line that is not JSON, or a row that is not an object.
    """
    empty = True
    for where, line in read_lines(path):
        empty = False
        yield where, parse_line(line, where)
    if empty:
        raise InputError(f"{path}: the file has no rows")


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield ``("file.jsonl:12", line)`` for every non-blank line, as it stands in the file, which may be gzip's.

    Raises `InputError` for a missing file, and for one that is a table or an archive.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"file not found: {path}")
    with open(path, "rb") as start:
        magic = start.read(6)
    for beginning, kind in OTHER_FILES.items():
        if magic.startswith(beginning):
            raise InputError(f"{path}: {kind}, not JSON Lines; {advice(str(path))}")
    try:
        with (gzip.open if magic.startswith(GZIP) else open)(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", line
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: broken gzip file ({error})") from error


def parse_line(line: bytes, where: str, strict: bool = True) -> dict:
    """One line's JSON object; raises `InputError` with `where` in front. `strict`: see `json_value`."""
    try:
        row = json_value(line, strict)
    except ValueError as error:
        raise InputError(f"{where}: not a line of UTF-8 JSON ({error}){_other_text(line, where)}") from error
    if not isinstance(row, dict):
        raise InputError(
            f"{where}: expected a JSON object, found {type(row).__name__}{_other_text(line, where)}"
        )
    return row


def json_value(content: bytes | str, strict: bool = True) -> Any:
    """The value of a JSON text, in UTF-8 where it comes as bytes.

    Args:
        strict: False takes NaN and halves of surrogate pairs, of what is only shown.

    Raises:
        ValueError: in one line, for what is no JSON, and for what JSON's grammar allows and no reader here can use: brackets
            nested over `DEEPEST` deep, integers of thousands of digits, half of a surrogate pair, which no UTF-8 file can hold.
    """
    try:
        if isinstance(content, bytes):
            content = content.decode("utf-8-sig", "strict" if strict else "surrogatepass")
        value = json.loads(content, parse_constant=_no_number if strict else None)
        check_value(value, content, strict)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    except UnicodeEncodeError as error:
        raise ValueError(
            f"half of a surrogate pair, {error.object[error.start]!a}, stands for no character"
        ) from None
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        reason = "an integer of thousands of digits" if "digits" in str(error) else str(error)
        raise ValueError(reason) from None
    return value


def check_value(value: object, content: str, strict: bool = True) -> None:
    """Raises `ValueError` (`UnicodeEncodeError` for half of a surrogate pair) for a value that no reader here can use.

    Args:
        content: its JSON, which tells in no time that most values need no look.
    """
    if content.count("[") + content.count("{") > DEEPEST and (reason := too_much(value, DEEPEST)):
        raise ValueError(reason)
    if strict and "\\u" in content:
        json.dumps(value, ensure_ascii=False).encode()


def _no_number(name: str) -> None:
    raise ValueError(f"{name}, which is no number of JSON's")


def _other_text(line: bytes, where: str) -> str:
    """What a file whose first line is no JSON object looks like, and how to bring it in; or nothing."""
    start = line.lstrip(b"\xef\xbb\xbf \t")
    if not where.endswith(":1") or start.startswith(b'"'):
        return ""
    if start[:1] in (b"[", b"{") and (start[:1] == b"[" or start.strip() == b"{"):
        return f"; this looks like one JSON {'list' if start[:1] == b'[' else 'object'} over several lines, {advice(where)}"
    if start[:1] != b"{" and any(mark in start for mark in (b",", b";", b"\t")):
        return f"; this looks like CSV, {advice(where)}"
    return ""


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write rows to `path`, replacing it only once all of them are on disk; numbers that are not finite become null."""
    with replacing(path) as out:
        for row in rows:
            out.write(_dumped(row) + "\n")


def _dumped(row: dict) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(finite(row), ensure_ascii=False, allow_nan=False)


def write_json(path: Path, content: dict) -> None:
    """Write JSON, replacing the file only once it is complete and on disk; numbers that are not finite become null."""
    with replacing(path) as out:
        out.write(json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def finite(value: object) -> object:
    """The same with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return value


def is_file(path: Path) -> bool:
    """Whether a file is there; raises `InputError` for what can only be damage: a link to nothing, a folder of that name."""
    if path.is_file():
        return True
    if not os.path.lexists(path):
        return False
    kind = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "a pipe or device"
    raise InputError(f"{path}: expected a file, found {kind}")


def read_json(path: Path) -> dict | None:
    """A JSON file's object; None where there is no such file.

    Raises:
        InputError: for a file that is damaged or, of a run's own (`common.records`), holds something else, with what is wrong;
            also where something that is no file has its name.
    """
    if not is_file(path):
        return None
    try:
        content = json_value(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: not UTF-8 JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    if wrong := mistake_in(path, content):
        raise InputError(f"{path}: {wrong}")
    return content
