"""generation/kept.py: a long generation says how far it is and what is left."""

from generation import kept


def test_long_work_says_what_is_left_every_half_minute(monkeypatch, capsys):
    now = [0.0]
    pace = kept.Pace
    monkeypatch.setattr(kept, "Pace", lambda total: pace(total, clock=lambda: now[0]))
    progress = kept.Progress(1000)
    for _ in range(10):
        now[0] += 20.0
        progress.add(100)
    assert capsys.readouterr().out.splitlines() == [
        "200 of 1000 replies, about 3 min left",
        "400 of 1000 replies, about 2 min left",
        "600 of 1000 replies, about 1 min left",
    ]
    quick = kept.Progress(10)
    now[0] += 40.0
    quick.add(8)
    assert capsys.readouterr().out == ""
