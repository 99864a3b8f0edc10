"""A file that grows by whole parts, so that long work that was ended goes on behind the last whole one."""

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from common.errors import InputError
from common.jsonl import json_value, parse_line
from common.processes import by_first, count, is_first, rank, wait_for_all


class Parts:
    """Rows on disk as they are made: a heading, then rows and after each part a line that closes it.

    What stands behind the last closed part was cut off and is dropped when the file is opened again; a file with another
    fingerprint is begun anew.

    Attributes:
        notes: what was said of each closed part, in order.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path = path
        self.notes: list[Any] = []
        self.begins: list[int] = []  # bytes in front of each part
        path.parent.mkdir(parents=True, exist_ok=True)
        heading = json.dumps({"fingerprint": fingerprint}).encode() + b"\n"
        whole = self._closed(heading) if path.is_file() else 0
        if not whole:
            path.write_bytes(heading)
        elif whole < path.stat().st_size:
            os.truncate(path, whole)

    def _closed(self, heading: bytes) -> int:
        """How many bytes of the file can be kept; 0: nothing, it is another's."""
        whole = position = 0
        with open(self.path, "rb") as lines:
            if (position := len(lines.readline())) != len(heading):
                return 0
            lines.seek(0)
            if lines.readline() != heading:
                return 0
            whole = position
            for line in lines:
                position += len(line)
                if line.startswith(b"[") and line.endswith(b"\n"):
                    try:
                        number, note = json_value(line, strict=False)
                    except (ValueError, TypeError):
                        break
                    if number != len(self.notes):
                        break
                    self.notes.append(note)
                    self.begins.append(whole)
                    whole = position
        return whole

    def __len__(self) -> int:
        return len(self.notes)

    def close_part(self, rows: list[dict], note: Any = None) -> None:
        """Add a part; it is on disk when this returns."""
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        lines.append(json.dumps([len(self.notes), note]))
        with open(self.path, "ab") as out:
            self.begins.append(out.tell())
            out.write(("\n".join(lines) + "\n").encode())
            out.flush()
            os.fsync(out.fileno())
        self.notes.append(note)

    def rows(self) -> Iterator[dict]:
        """All rows of the closed parts, in order, read one by one; raises `InputError` for one that is damaged."""
        for part in self.parts():
            yield from part

    def parts(self) -> Iterator[list[dict]]:
        """The rows of each closed part."""
        with open(self.path, "rb") as lines:
            lines.readline()
            yield from self._parts_from(lines, True)

    def _parts_from(self, lines: BinaryIO, whole: bool) -> Iterator[list[dict]]:
        """The parts from where an open file stands; `whole`: behind its heading, so that the numbers of lines are known."""
        rows: list[dict] = []
        for number, line in enumerate(lines, 2):
            if line.startswith(b"["):
                yield rows
                rows = []
                continue
            try:
                rows.append(parse_line(line, f"{self.path}:{number}" if whole else str(self.path)))
            except InputError as error:
                raise InputError(f"{error}; delete the file to begin again") from None

    def part(self, index: int) -> list[dict]:
        """The rows of one closed part."""
        with open(self.path, "rb") as lines:
            lines.seek(self.begins[index])
            return next(self._parts_from(lines, False))

    def remove(self) -> None:
        """Delete the file: what it held is kept elsewhere."""
        self.path.unlink(missing_ok=True)


class SharedParts:
    """Numbered parts that several processes write, each into a file of its own.

    The first process's file is ``<name>.partial``, the second's ``<name>.1.partial``. What any process has closed counts,
    whoever it was and however many there were, so that ended work goes on with any number of processes. To be made by all
    processes at once.

    Args:
        path: of the first process's file.
        total: number of parts.
    """

    def __init__(self, path: Path, fingerprint: str, total: int):
        self.path, self.fingerprint, self.total = path, fingerprint, total
        by_first(
            lambda: [Parts(file, fingerprint) for file in self._files()] and None
        )  # cuts off what is not whole
        self.own = Parts(self._file(rank()), fingerprint)
        wait_for_all()
        self._find()

    def _file(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_suffix(f".{number}{self.path.suffix}")

    def _files(self) -> list[Path]:
        """All processes' files, of those that were and those that are."""
        others = self.path.parent.glob(f"{glob.escape(self.path.stem)}.*{self.path.suffix}")
        numbered = [
            file for file in others if file.name[len(self.path.stem) + 1 : -len(self.path.suffix)].isdigit()
        ]
        return [file for file in (self.path, *sorted(numbered)) if file.is_file()]

    def _find(self) -> None:
        self.found: dict[int, tuple[Parts, int]] = {}
        for file in self._files():
            parts = self.own if file == self.own.path else Parts(file, self.fingerprint)
            for index, note in enumerate(parts.notes):
                number = note.get("part") if isinstance(note, dict) else None
                if not isinstance(number, int) or not 0 <= number < self.total:
                    raise InputError(
                        f"{file}: part {number!r:.40} of {self.total}; delete the file to begin again"
                    )
                self.found.setdefault(number, (parts, index))

    def __len__(self) -> int:
        """How many parts are closed, as seen when this was made or after `complete`."""
        return len(self.found)

    def mine(self) -> list[int]:
        """The numbers of the parts that are missing and this process's to make."""
        return [number for number in range(self.total) if number not in self.found][rank() :: count()]

    def close_part(self, number: int, rows: list[dict], note: dict | None = None) -> None:
        """Add a part; it is on disk when this returns."""
        self.own.close_part(rows, (note or {}) | {"part": number})
        self.found[number] = (self.own, len(self.own) - 1)

    def complete(self) -> None:
        """Wait for the others and see what they have written; raises `InputError` where a part is missing."""
        wait_for_all()
        self._find()
        if missing := [number for number in range(self.total) if number not in self.found]:
            raise InputError(
                f"{self.path}: part {missing[0]} of {self.total} is missing; the same command goes on"
            )

    @property
    def notes(self) -> list[dict]:
        """What was said of each part, in order."""
        return [parts.notes[index] for parts, index in (self.found[number] for number in sorted(self.found))]

    def part(self, number: int) -> list[dict]:
        """A closed part's rows."""
        parts, index = self.found[number]
        return parts.part(index)

    def rows(self) -> Iterator[dict]:
        """All rows in the parts' order, read part by part; raises `InputError` for one that is damaged."""
        for number in sorted(self.found):
            yield from self.part(number)

    def remove(self) -> None:
        """Delete the files: what they held is kept elsewhere. By the first process, once all are done with them."""
        wait_for_all()
        if is_first():
            for file in self._files():
                file.unlink(missing_ok=True)
