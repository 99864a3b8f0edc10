"""training/log.py: what a long training says of its time."""

from types import SimpleNamespace

import pytest

from training import log


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only a test moves."""
    now = [0.0]
    monkeypatch.setattr(log, "Pace", lambda total, done: Pace(total, done, lambda: now[0]))
    return now


Pace = log.Pace


def steps(seconds, clock, total=100, start=0):
    """A training of so many steps, of the same length each, with a log line every 20; yields nothing, prints."""
    lines = log.ReadableLog("cvae")
    for step in range(start + 1, total + 1):
        clock[0] += seconds
        state = SimpleNamespace(max_steps=total, global_step=step, is_world_process_zero=True)
        lines.on_step_end(None, state, None)
        if step % 20 == 0:
            lines.on_log(None, state, None, logs={"loss": 1.0, "epoch": 0.1})


def test_a_long_training_says_early_how_long_it_takes_and_in_every_line_what_is_left(clock, capsys):
    steps(6.0, clock)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "cvae: 100 steps, about 10 min from here"  # at step 4, before the first line
    assert said[1] == "cvae train step 20/100  loss 1  about 8 min left" and said[-1].endswith("loss 1")


def test_a_short_training_says_nothing_of_its_time(clock, capsys):
    steps(0.1, clock)
    assert "about" not in capsys.readouterr().out


def test_steps_of_an_earlier_start_do_not_count(clock, capsys):
    steps(6.0, clock, start=79)
    assert capsys.readouterr().out.splitlines()[1].endswith("about 2 min from here")
