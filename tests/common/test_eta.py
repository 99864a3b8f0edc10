"""common/eta.py: what is left, in words."""

import pytest

from common.eta import Pace, duration


def test_a_resumed_run_is_judged_by_what_it_did_itself():
    now = [100.0]
    pace = Pace(50, done=30, clock=lambda: now[0])
    assert pace.left(30) is None and pace.words(30) == ""
    now[0] += 120.0
    assert pace.left(35) == 360.0 and pace.words(35) == "about 6 min left"
    assert pace.words(48) == ""  # 13 s: not worth a word


@pytest.mark.parametrize(
    ("seconds", "words"), [(40, "40 s"), (61, "1 min"), (5399, "90 min"), (12600, "3.5 h")]
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words
