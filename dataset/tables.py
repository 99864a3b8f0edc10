"""Rows of any file that people keep dialogues in: JSON Lines, JSON, CSV, Parquet, each of them compressed or not."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from common.errors import InputError
from common.jsonl import check_value, json_value

COMPRESSIONS = {
    b"\x1f\x8b": ("gzip", gzip.decompress),
    b"BZh": ("bzip2", bz2.decompress),
    b"\xfd7zXZ\x00": ("xz", lzma.decompress),
}
DELIMITERS = ",\t;|"
LISTS = ("data", "rows", "train", "examples", "items", "dialogues", "conversations")


def unpacked(path: Path) -> tuple[bytes, str]:
    """A file's content, decompressed, and in words what it was compressed with; raises `InputError` for one that is missing or broken."""
    if not path.is_file():
        raise InputError(f"file not found: {path}")
    content = path.read_bytes()
    for magic, (name, decompress) in COMPRESSIONS.items():
        if content.startswith(magic):
            try:
                return decompress(content), f", {name}"
            except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
                raise InputError(f"{path}: broken {name} file ({error})") from error
    if content.startswith(b"PK\x03\x04"):
        raise InputError(
            f"{path}: a zip archive (or an Excel file); unpack it first, or save the sheet as CSV in UTF-8"
        )
    return content, ""


Rows = Iterator[tuple[str, dict | InputError]]


def rows_of(path: Path) -> tuple[str, Rows]:
    """What kind of file it is, and its rows with where each stands; a row that cannot be read is the error that says why.

    Raises:
        InputError: for a file of none of the kinds; and, from the rows, with file and line, where it cannot be read on.
    """
    content, packed = unpacked(path)
    if content[:4] == b"PAR1":
        return f"Parquet{packed}", _parquet(path, content)
    text = decoded(path, content)
    start = text.lstrip()[:1]
    if start == "[" or (start == "{" and _is_one_object(text)):
        return f"JSON{packed}", _json(path, text)
    if start == "{":
        return f"JSON Lines{packed}", _json_lines(path, text)
    if not text.strip():
        raise InputError(f"{path}: the file has no rows")
    header = text.lstrip("\n").split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=header.count)
    if delimiter not in header:
        raise InputError(f"{path}:1: neither JSON nor a table with a header; found {header.strip()[:60]!r}")
    return f"{'TSV' if delimiter == chr(9) else 'CSV'}{packed}", _csv(path, text, delimiter)


def decoded(path: Path, content: bytes) -> str:
    """A file's text: UTF-8, or UTF-16 with its mark; raises `InputError` for another encoding, with the line."""
    try:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return content.decode("utf-16").replace("\r\n", "\n")
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: not UTF-8 text (byte {content[error.start]:#04x}); save it as UTF-8"
        ) from None


def _is_one_object(text: str) -> bool:
    """Whether a text is one JSON object over several lines, or one that holds a list of rows; one line of rows is JSON Lines."""
    try:
        whole = json_value(text)
    except ValueError:
        return False
    return "\n" in text.strip() or any(isinstance(whole.get(name), list) for name in LISTS)


def _checked(row: object, where: str) -> dict | InputError:
    return (
        row
        if isinstance(row, dict)
        else InputError(f"{where}: expected an object, found {type(row).__name__}")
    )


def _json_lines(path: Path, text: str) -> Rows:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                yield where, _checked(json_value(line), where)
            except ValueError as error:
                yield where, InputError(f"{where}: not a line of JSON ({error})")


def _json(path: Path, text: str) -> Rows:
    """The items of a list, with the line that each begins in; or of the one list in an object, with their numbers."""
    decoder, position = json.JSONDecoder(), len(text) - len(text.lstrip())
    if text[position] == "{":
        whole = json_value(text)
        name = next(
            (
                name
                for name in LISTS
                if isinstance(whole.get(name), list) and whole[name] and isinstance(whole[name][0], dict)
            ),
            None,
        )
        if name is None or (
            name == "conversations"
            and not isinstance(whole[name][0].get("conversations", whole[name][0].get("messages")), list)
        ):
            yield f"{path}:1", whole
            return
        yield from (
            (f"{path} ({name}[{number}])", _checked(item, f"{path} ({name}[{number}])"))
            for number, item in enumerate(whole[name])
        )
        return
    position, line, counted = position + 1, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            return
        begin, where = position, f"{path}:{line}"
        try:
            item, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            wrong = getattr(error, "lineno", line)
            raise InputError(f"{path}:{wrong}: not JSON ({getattr(error, 'msg', error)})") from None
        try:
            check_value(item, text[begin:position])
        except ValueError as error:
            yield where, InputError(f"{where}: cannot be used ({error})")
        else:
            yield where, _checked(item, where)


def _csv(path: Path, text: str, delimiter: str) -> Rows:
    before = csv.field_size_limit(1 << 30)  # of the whole process
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        header = [name.strip() for name in next(reader)]
        if len(set(header)) < len(header):
            raise InputError(f"{path}:1: a column's name stands twice in the header: {header!r:.200}")
        line = reader.line_num + 1
        for fields in reader:
            if any(field.strip() for field in fields):
                where, row = f"{path}:{line}", dict(zip(header, fields))
                fits = len(fields) == len(header)
                yield (
                    where,
                    row
                    if fits
                    else InputError(
                        f"{where}: {len(fields)} fields; the header has {len(header)} ({', '.join(header)[:80]})"
                    ),
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{line}: not CSV ({error})") from None
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, content: bytes) -> Rows:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(pyarrow.BufferReader(content)).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path} (row {number})", row
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: broken Parquet file ({' '.join(str(error).split())[:100]})") from None
