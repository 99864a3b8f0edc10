"""The launcher: words reach the command as they are, one failure ends all and is said once, and nobody outlives it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from two import ROOT

from common import launch as launcher
from common import processes
from common.errors import InputError
from common.launch import launch, main

ME = "import os, sys, time; rank = int(os.environ.get('RANK', -1))\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0.3)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_words_are_the_command_s_and_each_process_knows_itself(tmp_path):
    code = (
        ME
        + "open(f'{sys.argv[1]}/{rank}', 'w').write(' '.join([*sys.argv[2:], os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK']]))"
    )
    assert main(["3", "-c", code, str(tmp_path), "--run", "x", "--nproc-per-node", "8"]) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        f"--run x --nproc-per-node 8 3 {rank}" for rank in range(3)
    ]


def test_one_process_is_no_group(tmp_path):
    assert launch(1, ["-c", ME + f"open({str(tmp_path / 'it')!r}, 'w').write(str(rank))"]) == 0
    assert (tmp_path / "it").read_text() == "-1"


def test_a_failure_ends_all_and_its_words_are_shown(capfd):
    code = ME + "if rank == 1: sys.exit(print('error: what it was', file=sys.stderr) or 2)\ntime.sleep(60)"
    before = time.monotonic()
    assert launch(2, ["-c", code]) == 2 and time.monotonic() - before < 50
    assert capfd.readouterr().err.splitlines() == ["process 1 of 2 said:", "error: what it was"]


def test_what_the_first_has_said_is_not_said_again(capfd):
    code = ME + "print('error: no file', file=sys.stderr); sys.exit(2)"
    assert launch(3, ["-c", code]) == 2
    assert capfd.readouterr().err == "error: no file\n"


def test_who_only_lost_another_is_not_the_cause(capfd):
    code = ME + f"sys.exit({processes.LOST}) if rank == 0 else time.sleep(0.2) or os.kill(os.getpid(), 9)"
    assert launch(2, ["-c", code]) == 128 + 9
    assert "error: process 1 of 2 was ended by SIGKILL" in capfd.readouterr().err


def test_processes_end_with_a_launcher_that_is_killed(tmp_path):
    code = f"from common.processes import end_with_launcher\nimport os, time\nend_with_launcher()\nopen({str(tmp_path)!r} + f'/{{os.getpid()}}', 'w')\ntime.sleep(60)"
    started = subprocess.Popen([sys.executable, "-m", "common.launch", "2", "-c", code], cwd=ROOT)
    ends = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < ends:
        time.sleep(0.05)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    started.kill()
    started.wait()

    def there(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    while any(map(there, pids)) and time.monotonic() < ends:
        time.sleep(0.05)
    assert len(pids) == 2 and not any(map(there, pids))


@pytest.mark.parametrize("words", [[], ["2"], ["two", "x.py"]])
def test_what_is_no_number_and_command_is_refused(words):
    with pytest.raises(InputError, match="expected a number of processes and a command"):
        main(words)
    with pytest.raises(InputError, match="of at least 1, found 0"):
        launch(0, ["x"])


def test_alone_everything_is_a_matter_of_this_process():
    assert "RANK" not in os.environ or processes.count() == 1
    assert (
        processes.by_first(lambda: 5) == 5
        and processes.collected("x") == ["x"]
        and processes.greatest(3) == 3
    )
    assert (
        processes.is_first()
        and not processes.several()
        and not processes.lost_another(RuntimeError("Broken pipe"))
    )
