"""What a command writes takes its place when all of it is written: a full disk, or a signal in between, leaves what was there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.files import replacing
from experiments.study import draw_panels, write_csv
from scoring.report.page import write_page

ROOT = Path(__file__).resolve().parents[2]
WRITERS = {
    "rows of a study": lambda path: write_csv(path, [{"a": 1, "b": None}]),
    "a picture": lambda path: draw_panels(path.with_suffix(".png"), [lambda axes: axes.plot([0, 1])]),
    "a page": lambda path: write_page(path, "<html>\ud83d</html>"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_a_disk_that_is_full_leaves_what_was_there(write, tmp_path, monkeypatch):
    path = tmp_path / "file"
    write(path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(before) == 1 and all(before.values())

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_ended_by_a_kill_a_file_is_as_before(tmp_path):
    path = tmp_path / "table.md"
    path.write_text("before")
    code = "import os\nfrom common.files import replacing\nwith replacing('table.md') as out:\n    out.write('x' * 9999)\n    os.kill(os.getpid(), 9)\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == -9 and path.read_text() == "before"
    with replacing(path) as out:
        out.write("after")
    assert [file.name for file in tmp_path.iterdir()] == ["table.md"] and path.read_text() == "after"


def test_what_is_no_file_is_written_to(tmp_path):
    """``--csv /dev/stdout`` prints."""
    code = "from common.files import replacing\nwith replacing('/dev/stdout') as out:\n    out.write('a,b')\n"
    place = tmp_path / "out"
    with open(place, "w") as out:
        subprocess.run(
            [sys.executable, "-c", code], check=True, stdout=out, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
    assert place.read_text() == "a,b"


def test_no_writer_of_results_writes_in_place():
    """Tables, pictures and pages go through `replacing`; what is left writes into a folder that appears whole, or its own journal."""
    in_place = ("shutil.copyfile(", "write_text(", "write_bytes(", "savefig(path", 'open(path, "w"')
    found = {
        f"{path.relative_to(ROOT)}: {pattern}"
        for room in ("experiments", "scoring", "generation", "training")
        for path in (ROOT / room).rglob("*.py")
        for pattern in in_place
        if pattern in path.read_text(encoding="utf-8")
    }
    assert found == {
        "generation/sharing.py: shutil.copyfile(",
        "scoring/sheet.py: write_text(",
        "scoring/sheet.py: write_bytes(",
    }  # complete with their key.json
