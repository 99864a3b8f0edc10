"""A file that grows by whole parts, so that long work that was ended goes on behind the last whole one."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.jsonl import json_value, parse_line


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
                    whole = position
        return whole

    def __len__(self) -> int:
        return len(self.notes)

    def close_part(self, rows: list[dict], note: Any = None) -> None:
        """Add a part; it is on disk when this returns."""
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        lines.append(json.dumps([len(self.notes), note]))
        with open(self.path, "ab") as out:
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
        rows: list[dict] = []
        with open(self.path, "rb") as lines:
            lines.readline()
            for number, line in enumerate(lines, 2):
                if line.startswith(b"["):
                    yield rows
                    rows = []
                    continue
                try:
                    rows.append(parse_line(line, f"{self.path}:{number}"))
                except InputError as error:
                    raise InputError(f"{error}; delete the file to begin again") from None

    def remove(self) -> None:
        """Delete the file: what it held is kept elsewhere."""
        self.path.unlink(missing_ok=True)
