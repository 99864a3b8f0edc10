"""The scheduler's bench counts what jobs without a network were answered."""

import json

import pytest

from scripts import bench_scheduler


@pytest.mark.parametrize("profile", [pytest.param(False, marks=pytest.mark.slow), True])
def test_jobs_are_counted(tiny_run, capsys, profile):
    """Clients go on asking until the time is over, and the thread is profiled meanwhile."""
    words = "--clients 2 --candidates 2 --warm-up 0.2 --seconds 3 --device cpu --join-within 2".split()
    assert bench_scheduler.main([str(tiny_run), *words, *(["--profile"] if profile else [])]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed.splitlines()[0])
    assert found["failed"] == 0 and found["answered"] > 0 and found["rows"] == 4
    assert found["written_tokens_per_second"] > found["reply_tokens_per_second"] > 0
    assert 0 < found["p50"] <= found["p99"]
    assert set(found["parts"]) == {"beginning", "writing", "choosing and scoring", "answering"}
    assert sum(found["parts"].values()) < 1.5
    assert ("cumulative time" in printed and "scheduler.py" in printed) is profile
