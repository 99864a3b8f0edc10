"""scripts/bench_reply.py measures what a user of the run gets."""

import dataclasses

import pytest

from miracle import Miracle
from scripts import bench_reply


@pytest.mark.parametrize(("more", "candidates"), [([], 3), (["--candidates", "2"], 2)])
def test_the_run_s_own_number_of_candidates_is_measured(tiny_run, monkeypatch, capsys, more, candidates):
    """The number was 8, whatever the release's preset said."""
    model = Miracle.from_run(tiny_run, "cpu")
    model.control = dataclasses.replace(model.control, candidates=3)
    monkeypatch.setattr(Miracle, "from_pretrained", lambda *_: model)
    assert bench_reply.main([str(tiny_run), *more]) == 0
    assert f", {candidates} candidates, " in capsys.readouterr().out
